"""The pictures in the report of a run: samples by class, and film strips."""

from collections.abc import Sequence

import numpy as np
from etils import epath
from markupsafe import Markup
from matplotlib.figure import Figure

from commands.report.page import macros
from commands.sample_job import SampleJob, SampleRequest
from core import charts
from core.errors import InputError
from core.progress import image_progress
from evaluate.compare import compared_methods
from evaluate.compare_table import split_names
from evaluate.comparison_picture import shown_classes
from guidance.parse import parse, with_guide
from sample import pictures
from sample.labels import class_name
from sample.trajectory import Film, record_trajectory

_PER_CLASS = 10  # number of images per class
_FILMED = 2  # number of images with a film strip
_AMPLIFIED = 4  # factor that amplifies the differences on a film strip
_LARGE = 64  # smallest side of an image, in pixels
_ANIMATED = ('state', 'strong', 'guided')  # parts of an animation
_ANIMATION = 160  # smallest side of an image in an animation, in pixels
_ROWS = {'state', 'strong', 'refined', 'guided'}  # other rows: weak predictions
SMOOTH = 'Small images are enlarged with a bicubic filter.'


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
      self._texts = list(dict.fromkeys(guidance))
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
    classes = shown_classes(count)
    labels = np.repeat(classes, _PER_CLASS)
    text = self._texts[0]
    guidance = with_guide(parse(text), self._guide)
    with image_progress(len(labels), 0, f'samples, {text}') as progress:
      images, nfe, _ = self._sampler.images(
        guidance, labels, self._seed, progress
      )
    rows = [
      (class_name(int(c), self._names), '', strip(images[labels == c]))
      for c in classes
    ]
    return self._html.note(
      f'{_named(text)}; {self._solver()}, NFE {nfe:.4g}, {self._weights}, '
      f'seed {self._seed}. {SMOOTH}'
    ) + self._html.strips(rows)

  def films(self) -> Markup:
    """Draws film strips of each method; plots the gaps rms(strong - weak)."""
    experiment, html = self._experiment, self._html
    classes = np.arange(_FILMED) % experiment.model.num_classes
    try:
      films = self._record(classes)
    except InputError as error:  # an adaptive solver has no fixed steps
      return html.nothing(text=f'Not drawn: {error}')
    names = [class_name(int(c), self._names) for c in classes]
    strips = html.films(self._solver(), self._weights)
    for text, film in films.items():
      strips += html.heading(_named(text))
      strips += html.remarks(parse(text), self._is_student)
      for k, name in enumerate(names):
        strips += html.film(name, *_film(film, k))
    if (plot := _gaps(films)) is not None:
      gaps = 'Distance between the velocities, over both images.'
      strips += html.figure(plot, gaps)
    return strips

  def _record(self, classes: np.ndarray) -> dict[str, Film]:
    """Records an image of each class with every method, except with 'none'.

    All films show the unguided prediction. 'none' is recorded if it is alone.
    """
    texts = [text for text in self._texts if text != 'none'] or ['none']
    films = {}
    with image_progress(len(texts) * len(classes), 0, 'films') as progress:
      for text in texts:
        films[text] = record_trajectory(
          self._sampler,
          with_guide(parse(text), self._guide),
          classes,
          self._seed,
        )
        progress(len(films) * len(classes))
    return films

  def _solver(self) -> str:
    name = self._sampler.config.solver
    if self._sampler.solver.adaptive:
      return name
    return f'{name}, {len(self._sampler.grid) - 1} steps'


def _named(text: str) -> str:
  names, _ = split_names(text)
  return text if text == 'none' else f'{names} ({text})'


def strip(images: np.ndarray) -> np.ndarray:
  """Returns images (n, H, W, C) in one row, enlarged if they are small."""
  return pictures.tile(pictures.enlarge(images, _LARGE), len(images))


def _film(
  film: Film, k: int
) -> tuple[list[str], list[tuple[str, str, np.ndarray]], bytes, Sequence[str]]:
  """Returns times, rows, animation and its parts for the film of image k."""
  images = {name: values[:, k] for name, values in film.images.items()}
  rows = [
    (name if name in _ROWS else f'weak: {name}', '', strip(values))
    for name, values in images.items()
    # If IG is the only method, rows 'refined' and 'guided' are identical.
    if name != 'refined' or len(film.gaps) > 1
  ]
  change = pictures.change_from(images['guided'], images['strong'], _AMPLIFIED)
  rows.append((f'change x {_AMPLIFIED}', '', strip(change)))
  parts = [pictures.enlarge(images[name], _ANIMATION) for name in _ANIMATED]
  animation = pictures.animate(np.concatenate(parts, axis=2))
  return [f'{t:.2f}' for t in film.times], rows, animation, _ANIMATED


def _gaps(films: dict[str, Film]) -> Figure | None:
  """Plots the gap rms(strong - weak) over t for each weak velocity."""
  if not any(frames.gaps for frames in films.values()):
    return None
  figure, (axes,) = charts.make_chart(1, size=(7, 4.4))
  for text, frames in films.items():
    for name, gap in frames.gaps.items():
      label = text if len(frames.gaps) == 1 else f'{name} of {text}'
      axes.plot(frames.begins, gap, label=label)
  charts.label_panel(axes, 'rms(strong - weak)', 't (0: data, 1: noise)')
  axes.invert_xaxis()
  charts.add_legend(figure)
  return figure
