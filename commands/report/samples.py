"""Pictures of the command `report`: samples by class, and film strips."""

from collections.abc import Sequence

import numpy as np
from absl import logging
from etils import epath
from matplotlib.figure import Figure

from commands.report import page
from commands.sample_job import SampleJob, SampleRequest
from core.errors import InputError
from evaluate.compare import compared_methods, split_names
from guidance.parse import parse, with_guide
from sample import pictures
from sample.labels import class_name
from sample.trajectory import Film, record_trajectory

_SIDE = 10  # classes on the sheet of samples, and images of each
_FILMED = 2  # images on a film strip
_AMPLIFIED = 4  # times the difference that a film strip shows
_ROWS = {name: name for name in ('state', 'strong', 'refined', 'guided')}


class Artist:
  """Draws the pictures; everything is checked first."""

  def __init__(self, request: SampleRequest, guidance: Sequence[str]) -> None:
    self._job = job = SampleJob(request)
    self._experiment = experiment = job.experiment
    self._seed = request.seed
    self._is_student = request.source.is_student
    log = experiment.log
    place = epath.Path(request.source.place).expanduser()
    if guidance:
      job.check(guidance)
      self._texts = list(guidance)
    else:
      usual = (log.preview_guidance, *compared_methods(place))
      if self._is_student:  # guidance is inside
        usual = ('none',)
      self._texts = [
        text for text in dict.fromkeys(usual) if self._serves(text)
      ]
      self._texts = self._texts or ['none']
      job.check(self._texts)
    job.check_weights()
    self._names = job.latents.classes
    decoder = job.decoder
    denoiser, self._guide, about = job.restore()
    self._sampler = job.make_sampler(denoiser, decoder)
    self._weights = f'{about["weights"]} weights of step {about["step"]}'

  def _serves(self, text: str) -> bool:
    try:
      self._job.check([text])
    except InputError:
      return False
    return True

  def sheet(self) -> str:
    """A row of samples for each class, or for some of many."""
    count = self._experiment.model.num_classes
    classes = np.unique(np.linspace(0, count - 1, _SIDE).round().astype(int))
    labels = np.repeat(classes, _SIDE)
    text = self._texts[0]
    logging.info('Drawing %d samples with %s.', len(labels), text)
    images, nfe, _ = self._sampler.images(
      with_guide(parse(text), self._guide), labels, self._seed
    )
    blocks = [
      (class_name(int(c), self._names), images[labels == c]) for c in classes
    ]
    sheet = pictures.sheet(blocks, _SIDE, scale=max(1, 40 // images.shape[1]))
    return page.figure(
      sheet,
      f'{_named(text)}; {self._solver()}, NFE {nfe:.4g}, {self._weights}, '
      f'seed {self._seed}.',
    )

  def films(self) -> str:
    """Film strips of every method, and how far apart predictions lie."""
    experiment, parts, gaps = self._experiment, [], {}
    classes = np.arange(_FILMED) % experiment.model.num_classes
    for text in self._texts:
      if text == 'none' and len(self._texts) > 1:
        continue  # every strip has the network's own prediction
      logging.info('Following a trajectory with %s.', text)
      try:
        found = record_trajectory(
          self._sampler,
          with_guide(parse(text), self._guide),
          classes,
          self._seed,
        )
      except InputError as error:  # of a solver without steps
        return page.note(f'Not drawn: {error}')
      parts += [page.heading(_named(text)), *self._remarks(text)]
      names = [class_name(int(c), self._names) for c in classes]
      parts.append(_strips(found, names))
      gaps[text] = found
    captions = (
      'Estimates of the final image (x0) where a step begins, t falling from '
      f'left to right; {self._solver()}, {self._weights}. strong: the '
      "network's own prediction; weak: the one to move away from, inside and "
      "outside the method's interval, before any projection; refined: strong "
      'after IG; guided: that of the velocity which the sampler follows; '
      f'change: guided - strong, {_AMPLIFIED} times the difference of these '
      'pictures, grey where there is none.'
    )
    plot = _gaps(gaps)
    if plot is not None:
      caption = 'How far apart the velocities are, over both images.'
      parts.append(page.figure(plot, caption))
    return page.note(captions) + ''.join(parts)

  def _remarks(self, text: str) -> list[str]:
    """Where a strip is not what one would take it for."""
    guidance, found = parse(text), []
    if guidance.zero_steps:
      found.append(f'The first {guidance.zero_steps} step(s) are left out.')
    if guidance.needs_ddim:
      found.append('guided: of the velocity by which x takes the same step.')
    if self._is_student:
      found.append('A student, drawn without guidance as it was made to be.')
    return [page.note(remark) for remark in found]

  def _solver(self) -> str:
    name = self._sampler.config.solver
    if self._sampler.solver.adaptive:
      return name
    return f'{name}, {len(self._sampler.grid) - 1} steps'


def _named(text: str) -> str:
  names, _ = split_names(text)
  return text if text == 'none' else f'{names} ({text})'


def _strips(found: Film, names: Sequence[str]) -> str:
  """One strip of each image: a row for each prediction, and their change."""
  times = ', '.join(f'{t:.2f}' for t in found.times)
  figures = []
  for k, name_of_class in enumerate(names):
    rows = [
      (_ROWS.get(name, f'weak:\n{name}'), images[:, k])
      for name, images in found.images.items()
      if name != 'refined' or len(found.gaps) > 1  # of IG alone, the guided one
    ]
    strong, guided = (
      found.images[name][:, k].astype(int) for name in ('strong', 'guided')
    )
    change = np.clip(128 + _AMPLIFIED * (guided - strong), 0, 255)
    rows.append(('change', change.astype(np.uint8)))
    scale = -(-48 // guided.shape[1])  # room for names of two lines
    sheet = pictures.sheet(rows, len(found.times), scale=scale)
    figures.append(page.figure(sheet, f'{name_of_class}, t = {times}'))
  return page.strip(figures)


def _gaps(films: dict[str, Film]) -> Figure | None:
  """rms(strong - weak) of velocities against t, a curve for each weak one."""
  if not any(found.gaps for found in films.values()):
    return None
  figure = Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  for text, found in films.items():
    for name, gap in found.gaps.items():
      label = text if len(found.gaps) == 1 else f'{name} of {text}'
      axes.plot(found.begins, gap, label=label)
  axes.set(xlabel='t (0: data, 1: noise)', ylabel='rms(strong - weak)')
  axes.invert_xaxis()
  axes.grid(alpha=0.25)
  axes.legend()
  return figure
