"""Guidance methods side by side, on the same labels and the same noise.

Writes to a folder:

  compare.json    the protocol and every figure
  table.md        the table
  samples.png     real images, and a block of images for each method, with
                  their distances in features
  guidance.png    distance against scale, one curve for each swept method
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh
from matplotlib.figure import Figure

from core.errors import InputError, WriteError
from core.files import read_json, write_bytes, write_json
from core.ranges import LARGE, Range, check_value, declarations
from dit.autoencoder import Autoencoder
from dit.path import Path
from dit.types import Denoiser
from evaluate.classifier import Classifier
from evaluate.scorer import Scorer, Scores
from guidance import Guidance, Scale, parse
from guidance.parse import with_guide
from sample import generate, pictures

# Files in the folder of results.
WRITES = ('compare.json', 'table.md', 'samples.png', 'guidance.png')
# Flags of fields with another name; compare.json keeps the names of fields.
_FLAGS = {'methods': '--guidance', 'resamples': '--bootstrap'}
_SPACES = ('features', 'pixels')
# Columns of the sheet of images, and its rows for each block.
_COLUMNS, _SHEET_ROWS = 20, 3


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """Settings of a comparison.

  Attributes:
    num: images for each method, labels balanced.
    methods: guidance as text, one row each.
    sweep_methods: names of methods whose scale is swept alone.
    sweep_scales: the scales.
    resamples: bootstrap resamples behind each standard error.
  """

  num: Annotated[int, Range(2, 10**6)]
  methods: tuple[str, ...]
  sweep_methods: tuple[str, ...]
  sweep_scales: Annotated[tuple[float, ...], Range(0, LARGE)]
  resamples: Annotated[int, Range(2, 10**6)]

  def __post_init__(self) -> None:
    """Checks sizes and names."""
    for name, declaration in declarations(CompareConfig).items():
      check_value(
        _FLAGS.get(name, f'--{name}'), getattr(self, name), declaration
      )
    if not all(map(str.strip, self.methods)):
      raise InputError(
        "--guidance is '', expected guidance such as none or ig:1.5."
      )
    for text in self.texts():
      parse(text)

  def texts(self) -> tuple[str, ...]:
    """All guidance that will be asked of the network."""
    return (*self.methods, self._sweep_text())

  def sweep(self) -> list[tuple[str, float, Guidance]]:
    """Method, scale and guidance of every point of the sweep.

    All have one structure, the other methods being at scale 1 (off), so that
    one compiled program serves the whole sweep.
    """
    points = []
    for name in self.sweep_methods:
      for value in self.sweep_scales:
        guidance = parse(self._sweep_text())
        points.append((name, value, _with_scale(guidance, name, value)))
    return points

  def _sweep_text(self) -> str:
    return ','.join(f'{name}:1' for name in self.sweep_methods)


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table; real images have scores only.

  Attributes:
    method: guidance as text.
    scores: metrics of its images.
    nfe: network evaluations per image.
    rate: images per second.
    gains: decrease of the distance in features and in pixels from the first
      row, in standard errors of the difference.
    nonfinite: Number of its images with values that are not finite.
  """

  method: str
  scores: Scores
  nfe: float | None = None
  rate: float | None = None
  gains: tuple[float, float] | None = None
  nonfinite: int = 0

  def as_dict(self) -> dict[str, Any]:
    """Plain values, for JSON."""
    return {
      'method': self.method,
      'nfe': self.nfe,
      'images_per_second': self.rate,
      **self.scores.as_dict(),
      'gain_features': self.gains[0] if self.gains else None,
      'gain_pixels': self.gains[1] if self.gains else None,
      'nonfinite': self.nonfinite,
    }


def compare(
  denoiser: Denoiser,
  config: CompareConfig,
  sampling: generate.SampleConfig,
  *,
  path: Path,
  shape: tuple[int, int, int],
  mesh: Mesh,
  seed: int,
  reference: tuple[np.ndarray, np.ndarray],
  held_out: tuple[np.ndarray, np.ndarray] | None,
  protocol: dict[str, Any],
  folder: epath.PathLike,
  guide: Denoiser | None = None,
  classifier: Classifier | None = None,
  autoencoder: Autoencoder | None = None,
  progress: Callable[[str], None] = logging.info,
) -> str:
  """Samples with every method, scores, and writes tables and pictures.

  Args:
    denoiser: the network.
    config: methods, their scales, and the number of images.
    sampling: settings of the sampler.
    path: the path of the network's velocity.
    shape: (H, W, C) of a latent.
    mesh: the devices.
    seed: the seed of all noise.
    reference: real images and labels that distances are taken to.
    held_out: real images and labels that the network has not seen, whose
      distance is the floor; None for none.
    protocol: other settings that fix the figures, such as weights; it is stored
      with the results.
    folder: folder of the results; results of the same protocol are kept.
    guide: the weaker network of AutoGuidance.
    classifier: the classifier whose features measure distances; None trains
      one.
    autoencoder: the decoder of the latents; None for pixels.
    progress: function called with a line of text as rows are finished.

  Returns:
    The table, as Markdown.
  """
  folder = epath.Path(folder)
  protocol = {
    **protocol,
    'sampling': dataclasses.asdict(sampling),
    'compare': dataclasses.asdict(config),
    'seed': seed,
    'labels': 'balanced',
    'reference': f'{len(reference[0])} real images',
    'extractor': classifier.fingerprint
    if classifier
    else 'classifier trained on the reference images; not FID',
  }
  protocol = json.loads(json.dumps(protocol))  # as it is read back
  names = ['compare.json', 'table.md', 'samples.png']
  names += ['guidance.png'] if config.sweep() else []
  if all((folder / name).exists() for name in names):
    if _protocol_of(folder / 'compare.json') == protocol:
      progress(f'Already compared; the figures are those of {folder}.')
      return (folder / 'table.md').read_text()

  num_classes = denoiser.num_classes
  labels = generate.plan_labels('balanced', config.num, num_classes, seed)
  if classifier is None:
    progress('Training the classifier on the reference images.')
  scorer = Scorer.of(*reference, num_classes, config.resamples, classifier)

  def draw(guidance: Guidance) -> tuple[generate.Generated, float]:
    marks = [(time.perf_counter(), 0)]
    drawn = generate.generate(
      denoiser,
      with_guide(guidance, guide),
      labels,
      sampling,
      path=path,
      shape=shape,
      mesh=mesh,
      seed=seed,
      autoencoder=autoencoder,
      progress=lambda done: marks.append((time.perf_counter(), done)),
    )
    # The first batch compiles; with a single one there is no other figure.
    (t_0, n_0), (t_1, n_1) = marks[1 if len(marks) > 2 else 0], marks[-1]
    return drawn, (n_1 - n_0) / (t_1 - t_0)

  rows: list[Row] = []
  picked = functools.partial(_picked, num_classes=num_classes)
  blocks, real, floor = [('real', picked(*reference))], [], None
  if held_out is not None:
    floor = scorer(*held_out)
    real = [Row('real, held out', floor)]
    blocks = [(_label('real,', 'held out', floor), picked(*held_out))]
  for text in config.methods:
    guidance = parse(text)
    drawn, rate = draw(guidance)
    scores = scorer(drawn.images, labels)
    first = rows[0].scores if rows else scores
    rows.append(
      Row(
        text,
        scores,
        drawn.nfe,
        rate,
        (
          first.features.gain(scores.features),
          first.pixels.gain(scores.pixels),
        ),
        drawn.nonfinite,
      )
    )
    blocks.append(
      (_label(*split_names(text), scores), picked(drawn.images, labels))
    )
    progress(f'{text}: {_summary(rows[-1].scores)}')
  rows += real

  points = []
  for name, scale, guidance in config.sweep():
    drawn, _ = draw(guidance)
    points.append((name, scale, scorer(drawn.images, labels)))
    progress(f'{name}:{scale:g}: {_summary(points[-1][2])}')

  table = format_table(rows)
  about = {
    'protocol': protocol,
    'device': jax.devices()[0].device_kind,
    'rows': [row.as_dict() for row in rows],
    'sweep': [
      {'method': name, 'scale': scale, **scores.as_dict()}
      for name, scale, scores in points
    ],
  }
  try:
    pictures.write_png(folder / 'samples.png', _sheet(blocks))
    if points:
      pictures.write_figure(folder / 'guidance.png', _figure(points, floor))
    write_bytes(folder / 'table.md', table.encode())
    write_json(folder / 'compare.json', about)
  except WriteError:
    progress(f'The results cannot be written; the table is:\n{table}')
    raise
  return table


def format_table(rows: Sequence[Row]) -> str:
  """The rows as Markdown."""
  lines = [
    '| method | scale | NFE | features | pixels | accuracy | images/s '
    '| gain (features, pixels) |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    name, scale = split_names(row.method) if row.gains else (row.method, '')
    if row.nonfinite:
      name = f'{name} ({row.nonfinite} images not finite)'
    gain = ''
    if row.gains and row is not rows[0]:
      gain = ', '.join(f'{value:+.1f}' for value in row.gains) + ' se'
    features, pixels = row.scores.features, row.scores.pixels
    cells = [
      name,
      scale,
      '' if row.nfe is None else f'{row.nfe:.4g}',
      f'{features.value:.2f} ± {features.error:.2f}',
      f'{pixels.value:.3f} ± {pixels.error:.3f}',
      f'{row.scores.accuracy:.1%}',
      '' if row.rate is None else f'{row.rate:.0f}',
      gain,
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def _protocol_of(path: epath.Path) -> dict[str, Any] | None:
  """The protocol of earlier results; None where they are damaged."""
  try:
    return read_json(path).get('protocol')
  except InputError:
    return None


def compared_methods(folder: epath.Path) -> tuple[str, ...]:
  """Returns the methods whose figures are in a folder; () if there are none."""
  path = folder / 'compare.json'
  protocol = _protocol_of(path) if path.exists() else None
  try:
    return tuple(map(str, protocol['compare']['methods'])) if protocol else ()
  except (LookupError, TypeError):  # damaged
    return ()


def split_names(text: str) -> tuple[str, str]:
  """Guidance as text to names and scales: 'IG + CFG' and '1.5, 1.2'."""
  if text == 'none':
    return text, ''
  parts = [part.split(':', 1) for part in text.split(',')]
  names = ' + '.join(name.upper() for name, _ in parts)
  return names, ', '.join(scale for _, scale in parts)


def _summary(scores: Scores) -> str:
  return (
    f'distance {scores.features.value:.2f} in features, '
    f'{scores.pixels.value:.3f} in '
    f'pixels, accuracy {scores.accuracy:.1%}'
  )


def _label(name: str, scale: str, scores: Scores) -> str:
  """Returns the text beside a block of images."""
  distance = f'FD {scores.features.value:.2f}'
  return '\n'.join(filter(None, (name, scale, distance)))


def _with_scale(guidance: Guidance, name: str, value: float) -> Guidance:
  """The guidance with the scale of one method replaced."""

  def replaced(method):
    if method is None or method.name != name:
      return method
    return dataclasses.replace(method, scale=Scale(value))

  return dataclasses.replace(
    guidance,
    internal=replaced(guidance.internal),
    terms=tuple(map(replaced, guidance.terms)),
  )


def _picked(
  images: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Returns images for the sheet; column j holds class j mod num_classes."""
  order = np.argsort(labels, kind='stable')
  by_class = [order[labels[order] == c] for c in range(num_classes)]
  return images[
    [
      by_class[j % num_classes][row + _SHEET_ROWS * (j // num_classes)]
      for row in range(_SHEET_ROWS)
      for j in range(_COLUMNS)
      if row + _SHEET_ROWS * (j // num_classes) < len(by_class[j % num_classes])
    ]
  ]


def _sheet(blocks: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
  """Returns the picture of real and drawn images, named on the left."""
  scale = max(1, 48 // blocks[0][1].shape[1])
  return pictures.sheet(blocks, _COLUMNS, scale=scale)


def _figure(
  points: Sequence[tuple[str, float, Scores]], floor: Scores | None
) -> Figure:
  """Distance against scale, in features and in pixels."""
  figure = Figure(figsize=(10, 4.2), layout='constrained')
  for axes, space in zip(figure.subplots(1, 2), _SPACES, strict=True):
    for name in dict.fromkeys(name for name, _, _ in points):
      mine = [(scale, s) for n, scale, s in points if n == name]
      axes.errorbar(
        [scale for scale, _ in mine],
        [getattr(s, space).value for _, s in mine],
        [getattr(s, space).error for _, s in mine],
        label=name.upper(),
        marker='o',
        capsize=3,
      )
    if floor is not None:
      axes.axhline(
        getattr(floor, space).value,
        color='grey',
        linestyle='--',
        label='real, held out',
      )
    axes.set(
      xlabel='guidance scale (1 = off)', ylabel=f'Frechet distance, {space}'
    )
    axes.set_yscale('log')
    axes.grid(which='both', alpha=0.25)
  axes.legend()
  return figure
