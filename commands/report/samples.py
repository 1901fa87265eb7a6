"""The pictures in the report of a run: samples by class, and film strips."""

from collections.abc import Sequence

import numpy as np
from absl import logging
from etils import epath
from markupsafe import Markup
from matplotlib.figure import Figure

from commands.report.page import macros
from commands.sample_job import SampleJob, SampleRequest
from core.errors import InputError
from evaluate.compare import compared_methods
from evaluate.compare_table import split_names
from guidance.parse import parse, with_guide
from sample import pictures
from sample.labels import class_name
from sample.trajectory import Film, record_trajectory

_SIDE = 10  # number of classes on the sheet of samples, and images per class
_FILMED = 2  # number of images with a film strip
_AMPLIFIED = 4  # factor that amplifies the differences on a film strip
_ROWS = {'state', 'strong', 'refined', 'guided'}  # other rows: weak predictions


class Artist:
  """Checks all settings of sampling, and then samples the pictures."""

  def __init__(self, request: SampleRequest, guidance: Sequence[str]) -> None:
    self._job = job = SampleJob(request)
    self._experiment = experiment = job.experiment
    self._seed, self._html = request.seed, macros()
    self._is_student = request.source.is_student
    log = experiment.log
    folder = epath.Path(request.source.place).expanduser()
    if guidance:
      job.check(guidance)
      self._texts = list(guidance)
    else:
      default = (log.preview_guidance, *compared_methods(folder))
      if self._is_student:  # a student needs no guidance
        default = ('none',)
      texts = list(filter(job.serves, dict.fromkeys(default)))
      self._texts = texts or ['none']
      job.check(self._texts)
    job.check_weights()
    self._names = job.latents.classes
    decoder = job.decoder
    denoiser, self._guide, metadata = job.restore()
    self._sampler = job.make_sampler(denoiser, decoder)
    self._weights = f'{metadata["weights"]} weights of step {metadata["step"]}'

  def sheet(self) -> Markup:
    """Samples a row of images for each of up to ten classes."""
    count = self._experiment.model.num_classes
    classes = np.unique(np.linspace(0, count - 1, _SIDE).round().astype(int))
    labels = np.repeat(classes, _SIDE)
    text = self._texts[0]
    logging.info('Sampling %d images with %s.', len(labels), text)
    images, nfe, _ = self._sampler.images(
      with_guide(parse(text), self._guide), labels, self._seed
    )
    blocks = [
      (class_name(int(c), self._names), images[labels == c]) for c in classes
    ]
    sheet = pictures.sheet(blocks, _SIDE, scale=max(1, 40 // images.shape[1]))
    caption = (
      f'{_named(text)}; {self._solver()}, NFE {nfe:.4g}, {self._weights}, '
      f'seed {self._seed}.'
    )
    return self._html.figure(sheet, caption)

  def films(self) -> Markup:
    """Draws film strips of each method; plots the gaps rms(strong - weak)."""
    experiment, html, films = self._experiment, self._html, {}
    strips = html.films(self._solver(), self._weights, _AMPLIFIED)
    classes = np.arange(_FILMED) % experiment.model.num_classes
    names = [class_name(int(c), self._names) for c in classes]
    for text in self._texts:
      if text == 'none' and len(self._texts) > 1:
        continue  # every strip shows the unguided prediction anyway
      logging.info('Recording a trajectory with %s.', text)
      guidance = parse(text)
      try:
        films[text] = record_trajectory(
          self._sampler,
          with_guide(guidance, self._guide),
          classes,
          self._seed,
        )
      except InputError as error:  # an adaptive solver has no fixed steps
        return html.note(f'Not drawn: {error}')
      sheets = _strips(films[text], names)
      strips += html.heading(_named(text))
      strips += html.remarks(guidance, self._is_student)
      strips += html.strip([html.figure(*sheet) for sheet in sheets])
    if (plot := _gaps(films)) is not None:
      gaps = 'Distance between the velocities, over both images.'
      strips += html.figure(plot, gaps)
    return strips

  def _solver(self) -> str:
    name = self._sampler.config.solver
    if self._sampler.solver.adaptive:
      return name
    return f'{name}, {len(self._sampler.grid) - 1} steps'


def _named(text: str) -> str:
  names, _ = split_names(text)
  return text if text == 'none' else f'{names} ({text})'


def _strips(frames: Film, names: Sequence[str]) -> list[tuple[np.ndarray, str]]:
  """Returns a strip of predictions and a caption for each image."""
  times = ', '.join(f'{t:.2f}' for t in frames.times)
  strips = []
  for k, name_of_class in enumerate(names):
    rows = [
      (name if name in _ROWS else f'weak:\n{name}', images[:, k])
      for name, images in frames.images.items()
      # If IG is the only method, rows 'refined' and 'guided' are identical.
      if name != 'refined' or len(frames.gaps) > 1
    ]
    strong, guided = (
      frames.images[name][:, k].astype(int) for name in ('strong', 'guided')
    )
    change = np.clip(128 + _AMPLIFIED * (guided - strong), 0, 255)
    rows.append(('change', change.astype(np.uint8)))
    scale = -(-48 // guided.shape[1])  # large enough for two-line names
    sheet = pictures.sheet(rows, len(frames.times), scale=scale)
    strips.append((sheet, f'{name_of_class}, t = {times}'))
  return strips


def _gaps(films: dict[str, Film]) -> Figure | None:
  """Plots the gap rms(strong - weak) over t for each weak velocity."""
  if not any(frames.gaps for frames in films.values()):
    return None
  figure = Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  for text, frames in films.items():
    for name, gap in frames.gaps.items():
      label = text if len(frames.gaps) == 1 else f'{name} of {text}'
      axes.plot(frames.begins, gap, label=label)
  axes.set(xlabel='t (0: data, 1: noise)', ylabel='rms(strong - weak)')
  axes.invert_xaxis()
  axes.grid(alpha=0.25)
  axes.legend()
  return figure
