"""Compares guidance methods on the same labels and noise.

The results are:

  compare.json    protocol and all numbers
  table.md        table with one row per method
  samples.png     real images, then samples of each method and their changes,
                  next to a chart of the distances in features
  compare.npz     the images of samples.png and their titles
"""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh

from core.errors import InputError, WriteError
from core.files import read_json, write_bytes, write_json
from core.progress import image_progress
from core.ranges import Range, check_value, declarations
from dit.types import Denoiser
from evaluate.classifier import Classifier, train_classifier
from evaluate.compare_table import Row, format_table
from evaluate.comparison_picture import (
  Strip,
  draw_comparison,
  first_of_each,
  method_strip,
  shown_classes,
  write_strips,
)
from evaluate.effective_scale import effective_scale
from evaluate.evaluator import EvalConfig, Evaluator, read_reference
from evaluate.extractor import classifier_extractor, pixels_extractor
from evaluate.image_sets import array_images
from evaluate.metrics import Estimate
from guidance import Guidance, parse
from guidance.parse import with_guide
from sample import pictures
from sample.generate import Generated, Sampler, plan_labels
from sample.labels import class_name

_SPACES = ('features', 'pixels')
_METRICS = ('fd', 'accuracy')
# Names of the result files.
WRITES = ('compare.json', 'table.md', 'samples.png', 'compare.npz')
# Fields of `CompareConfig` whose command-line flags have other names.
_FLAGS = {'methods': '--guidance', 'resamples': '--bootstrap'}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """Settings of a comparison.

  Attributes:
    num: Number of images per method, with balanced labels.
    methods: Guidance strings, one per row.
    resamples: Number of bootstrap resamples per standard error.
    match_cfg: Whether CFG at the effective scale of each method is compared.
  """

  num: Annotated[int, Range(2, 10**6)]
  methods: tuple[str, ...]
  resamples: Annotated[int, Range(2, 10**6)]
  match_cfg: bool = False

  def __post_init__(self) -> None:
    for name, declaration in declarations(CompareConfig).items():
      check_value(
        _FLAGS.get(name, f'--{name}'), getattr(self, name), declaration
      )
    if not all(map(str.strip, self.methods)):
      raise InputError(
        "--guidance is '', expected guidance such as none or ig:1.5."
      )
    for text in self.methods:
      parse(text)


def open_evaluators(
  images: np.ndarray, network: Classifier, config: EvalConfig, mesh: Mesh
) -> dict[str, Evaluator]:
  """Returns evaluators of distances, keyed by 'features' and 'pixels'.

  `network` computes the features of the real `images` (n, H, W, C) uint8.
  """
  real = array_images('real images', images)
  evaluators = {}
  for space, extractor, metrics in (
    ('features', classifier_extractor(network, {'data': real.name}), _METRICS),
    ('pixels', pixels_extractor(), _METRICS[:1]),
  ):
    reference = read_reference(real, extractor, config, metrics, mesh)
    evaluators[space] = Evaluator(config, metrics, extractor, reference, mesh)
  return evaluators


def score(
  evaluators: Mapping[str, Evaluator], images: np.ndarray, labels: np.ndarray
) -> dict[str, Estimate]:
  """Returns class accuracy, and distances in features and in pixels."""
  metrics_of = {
    space: evaluator.score(images, labels)
    for space, evaluator in evaluators.items()
  }
  distances = {space: metrics['fd'] for space, metrics in metrics_of.items()}
  return {**distances, 'accuracy': metrics_of['features']['accuracy']}


def compare(
  sampler: Sampler,
  config: CompareConfig,
  splits: Sequence[tuple[np.ndarray, np.ndarray]],
  *,
  seed: int,
  protocol: dict[str, Any],
  folder: epath.PathLike,
  guide: Denoiser | None = None,
  classifier: Classifier | None = None,
  train: Callable[..., Classifier] = train_classifier,
  names: Sequence[str] = (),
) -> str:
  """Samples with every method and writes results; returns a Markdown table.

  Args:
    sampler: Network and sampling settings.
    config: Methods and counts.
    splits: Real images and labels of the reference. A second pair, if given,
      has held-out images; a method can expect no lower distance than theirs.
    seed: Random seed of all noise.
    protocol: Other settings that determine the results, such as the weights.
    folder: Folder of the results. Results of an equal protocol are reused.
    guide: Weaker network of AutoGuidance.
    classifier: Classifier that computes the features; None for `train`.
    train: Function from images, labels and their number of classes to the
      classifier.
    names: Names of the classes; () if unknown.
  """
  folder = epath.Path(folder)
  protocol = {
    **protocol,
    'sampling': dataclasses.asdict(sampler.config),
    'compare': dataclasses.asdict(config),
    'seed': seed,
    'labels': 'balanced',
    'reference': f'{len(splits[0][0])} real images',
    'extractor': classifier.fingerprint
    if classifier
    else 'classifier trained on the reference images; not FID',
  }
  protocol = json.loads(json.dumps(protocol))  # JSON turns tuples into lists
  if _has_results(folder, protocol):
    logging.info('Already compared; the figures are from %s.', folder)
    return (folder / 'table.md').read_text()

  num_classes = sampler.denoiser.num_classes
  if classifier is None:
    classifier = train(*splits[0], num_classes)
  size = sampler.config.batch_size
  settings = EvalConfig(bootstrap=config.resamples, batch_size=size)
  evaluators = open_evaluators(splits[0][0], classifier, settings, sampler.mesh)
  labels = plan_labels('balanced', config.num, num_classes, seed)
  real, strip = _real_images(evaluators, splits, num_classes)
  rows: list[Row] = []
  strips = [strip]
  queue = [(text, '') for text in config.methods]
  while queue:
    text, matched = queue.pop(0)
    guidance = with_guide(parse(text), guide)
    with image_progress(config.num, 0, text) as progress:
      sample, rate = _draw(sampler, guidance, labels, seed, progress)
    scores = score(evaluators, sample.images, labels)
    base = rows[0].scores if rows else scores
    features, pixels = (base[space].gain(scores[space]) for space in _SPACES)
    if sampler.denoiser.null_label and not sampler.solver.adaptive:
      logging.info('%s: measuring the effective CFG scale.', text)
    row = Row(
      text, scores, sample.nfe, rate, (features, pixels), sample.nonfinite,
      effective_scale(sampler, guidance, labels, seed), matched,
    )  # fmt: skip
    rows.append(row)
    is_cfg = text == 'none' or re.fullmatch(r'cfg:[^:@,]+', text)
    if config.match_cfg and not matched and row.cfg_scale and not is_cfg:
      queue.insert(0, (f'cfg:{max(row.cfg_scale.value, 0):.4g}', text))
    shown = first_of_each(sample.images, labels, num_classes)
    strips.append(method_strip(text, sample.nfe, shown, scores['features']))
    logging.info('%s: %s', text, _summary(scores))
  columns = [class_name(int(c), names) for c in shown_classes(num_classes)]
  return _write(folder, protocol, rows + real, strips, columns)


def _real_images(
  evaluators: Mapping[str, Evaluator],
  splits: Sequence[tuple[np.ndarray, np.ndarray]],
  num_classes: int,
) -> tuple[list[Row], Strip]:
  """Returns the row of held-out images, if there are any, and real images."""
  shown = first_of_each(*splits[-1], num_classes)
  if len(splits) == 1:
    return [], Strip('Real images', 'Training images.', shown, None, True)
  scores = score(evaluators, *splits[1])
  text, distance = 'Held out from training.', scores['features']
  strip = Strip('Real images', text, shown, distance, is_real=True)
  return [Row('real, held out', scores)], strip


def _has_results(folder: epath.Path, protocol: Mapping[str, Any]) -> bool:
  """Returns whether a folder contains all results of a protocol."""
  # Comparisons of earlier versions have no compare.npz.
  if not all((folder / name).exists() for name in WRITES[:3]):
    return False
  return _protocol_of(folder / 'compare.json') == protocol


def _draw(
  sampler: Sampler,
  guidance: Guidance,
  labels: np.ndarray,
  seed: int,
  progress: Callable[[int], None],
) -> tuple[Generated, float]:
  """Samples with one method; returns the images and the images per second."""
  marks = [(time.perf_counter(), 0)]

  def mark(done: int) -> None:
    marks.append((time.perf_counter(), done))
    progress(done)

  sample = sampler.images(guidance, labels, seed, mark)
  # The rate excludes the first batch, which compiles, if other batches follow.
  (t_0, n_0), (t_1, n_1) = marks[1 if len(marks) > 2 else 0], marks[-1]
  return sample, (n_1 - n_0) / (t_1 - t_0)


def _write(
  folder: epath.Path,
  protocol: Mapping[str, Any],
  rows: Sequence[Row],
  strips: Sequence[Strip],
  classes: Sequence[str],
) -> str:
  """Writes the result files, and returns the table as Markdown."""
  table = format_table(rows)
  record = {
    'protocol': protocol,
    'device': jax.devices()[0].device_kind,
    'rows': [row.as_dict() for row in rows],
  }
  try:
    write_bytes(folder / 'table.md', table.encode())
    picture = draw_comparison(strips, classes, 'Distance in features')
    pictures.write_figure(folder / 'samples.png', picture)
    write_strips(folder / 'compare.npz', strips, classes)
    write_json(folder / 'compare.json', record)
  except WriteError:
    logging.info('The results cannot be written; the table is:\n%s', table)
    raise
  return table


def _protocol_of(path: epath.Path) -> dict[str, Any] | None:
  """Returns the protocol of earlier results; None if they are damaged."""
  try:
    return read_json(path).get('protocol')
  except InputError:
    return None


def compared_methods(folder: epath.Path) -> tuple[str, ...]:
  """Returns the methods whose results a folder contains; () for no results."""
  path = folder / 'compare.json'
  protocol = _protocol_of(path) if path.exists() else None
  try:
    return tuple(map(str, protocol['compare']['methods'])) if protocol else ()
  except (LookupError, TypeError):  # the file is damaged
    return ()


def _summary(scores: Mapping[str, Estimate]) -> str:
  return (
    f'distance {scores["features"].value:.2f} in features, '
    f'{scores["pixels"].value:.3f} in pixels, accuracy '
    f'{scores["accuracy"].value:.1%}'
  )
