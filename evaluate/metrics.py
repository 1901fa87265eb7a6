"""Computes metrics of features, with standard errors.

  fd         Frechet distance of `pool`; FID with the published Inception
  sfd        Frechet distance of `spatial`; sFID with the published Inception
  fd_inf     fd, extrapolated to infinitely many images; only if requested
  is         Inception Score of `logits`
  kid        kernel distance of `pool`
  precision  share of samples in the manifold of the reference, in `pool` space
  recall     share of reference images in the manifold of samples, in that space
  accuracy   share of images that a classifier assigns to their label

Moments accumulate batch by batch. Features of individual images are kept only
for metrics that need more than moments, and for the bootstrap.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from absl import logging

from core.errors import InputError
from core.ranges import Choice, Count, Range, check_fields
from evaluate.extractor import Extractor, Kind
from evaluate.frechet import (
  Moments,
  MomentsAccumulator,
  bootstrap,
  extrapolated,
  frechet_distance,
)
from evaluate.inception import Features
from evaluate.inception_score import inception_score
from evaluate.kid import kernel_distance
from evaluate.precision_recall import precision_recall
from evaluate.resize import USUAL

METRICS = (
  'fd', 'sfd', 'is', 'kid', 'precision', 'recall', 'accuracy', 'fd_inf',
)  # fmt: skip
LOWER = ('fd', 'sfd', 'kid', 'fd_inf')  # metrics for which lower is better
_NAMES = {
  'fd': 'FID',
  'sfd': 'sFID',
  'is': 'IS',
  'kid': 'KID',
  'precision': 'Precision',
  'recall': 'Recall',
  'accuracy': 'Accuracy',
  'fd_inf': 'FID∞',
}
_OTHER_NAMES = {
  'fd': 'FD',
  'sfd': 'sFD',
  'is': 'IS',
  'kid': 'KD',
  'fd_inf': 'FD∞',
}  # names of metrics, unless the extractor is the published Inception
# Metrics that need the features of each image, keyed by extractor output.
_ROWS = {
  'pool': {'kid', 'precision', 'recall', 'fd_inf'},
  'spatial': set(),
  'logits': {'is', 'accuracy'},
}
# Metrics that allow a bootstrap, which duplicates images. A duplicate would be
# its own neighbor in precision and recall, and would pair with itself in kid.
_RESAMPLED = ('fd', 'sfd', 'is', 'accuracy')


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
  """Metrics and their constants; configs/base.py explains each field."""

  metrics: Annotated[tuple[str, ...], Choice(METRICS)] = ()
  neighbors: Annotated[int, Range(1, 10**6)] = 3
  float16_distances: bool = False
  split_size: Count = 5000
  kid_subsets: Annotated[int, Range(1, 10**6)] = 100
  kid_subset_size: Annotated[int, Range(1, 10**6)] = 1000
  bootstrap: Annotated[int, Range(0, 10**6)] = 0

  def __post_init__(self) -> None:
    check_fields('eval', self)
    if self.bootstrap == 1:
      raise InputError(
        'eval.bootstrap is 1, expected 0, or at least 2 resamples.'
      )


@dataclasses.dataclass(frozen=True)
class Summary:
  """The moments of a set of images, and the features that were kept.

  Attributes:
    pool: Moments of `Features.pool`.
    spatial: Moments of `Features.spatial`, or None.
    rows: Kept features of individual images.
    labels: Requested labels (n,) of the images, or None.
  """

  pool: Moments
  spatial: Moments | None
  rows: Features
  labels: np.ndarray | None = None

  def resampled(self, rng: np.random.Generator) -> 'Summary':
    """Returns a bootstrap resample of the logits and labels."""
    logits = self.rows.logits
    index = rng.integers(0, len(logits), len(logits))
    labels = None if self.labels is None else self.labels[index]
    rows = self.rows._replace(logits=logits[index])
    return dataclasses.replace(self, rows=rows, labels=labels)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A metric and its uncertainty.

  Attributes:
    value: Value of the metric, or mean of the values of the repeats.
    error: Standard error of the value; None if it was not requested.
    resampled: Values (resamples,) for bootstrap resamples, or None. All sets of
      the same size are resampled at the same rows.
  """

  value: float
  error: float | None = None
  resampled: np.ndarray | None = dataclasses.field(
    default=None, compare=False, repr=False
  )

  def minus(self, other: 'Estimate') -> 'Estimate':
    """Returns the difference of a metric between two sets with paired rows.

    Paired sets share labels and noise, so the standard error of the difference
    is smaller than the error for independent sets.
    """
    assert self.resampled is not None and other.resampled is not None
    resamples = self.resampled - other.resampled
    error = float(resamples.std(ddof=1))
    return Estimate(self.value - other.value, error, resamples)

  def gain(self, other: 'Estimate') -> float:
    """Returns the decrease from `self` to `other`, in standard errors."""
    difference = self.minus(other)
    return difference.value / difference.error if difference.error else 0.0

  def __str__(self) -> str:
    """Returns a text with four digits, such as '2.064 ± 0.031'."""
    error = '' if self.error is None else f' ± {self.error:.2g}'
    return f'{self.value:.4g}{error}'


class Gatherer:
  """Accumulates batches of features into a `Summary` for the wanted metrics."""

  def __init__(self, config: MeasureConfig, wanted: Sequence[str]) -> None:
    self._pool, self._wanted = MomentsAccumulator(), {*wanted}
    self._spatial: MomentsAccumulator | None = None
    self._rows: dict[str, list[np.ndarray]] = {}
    self._kept = {
      name for name, metrics in _ROWS.items() if metrics & self._wanted
    }
    if config.bootstrap:
      self._kept |= {'pool', 'spatial'} if 'sfd' in wanted else {'pool'}

  def add(self, batch: Features, keep: np.ndarray | None = None) -> None:
    """Adds features of n images; raises InputError if they are not finite.

    `keep` (n,) marks the images whose features may be kept; None marks all.
    """
    self._pool.add(batch.pool)
    if batch.spatial is not None and 'sfd' in self._wanted:
      self._spatial = self._spatial or MomentsAccumulator()
      self._spatial.add(batch.spatial)
    for name, rows in batch._asdict().items():
      if rows is not None and name in self._kept:
        part = rows if keep is None else rows[keep]
        self._rows.setdefault(name, []).append(part)

  def summary(self, labels: np.ndarray | None = None) -> Summary:
    """Returns the summary of all batches, with the labels of the images."""
    rows = {name: np.concatenate(parts) for name, parts in self._rows.items()}
    return Summary(
      self._pool.moments(),
      None if self._spatial is None else self._spatial.moments(),
      Features(**{name: rows.get(name) for name in Features._fields}),
      labels,
    )


def choose(
  config: MeasureConfig,
  extractor: Extractor | Kind,
  *,
  reference_rows: bool,
  reference_spatial: bool,
  labels: bool,
) -> tuple[str, ...]:
  """Returns the requested metrics, or all possible metrics by default.

  Raises InputError if a requested metric is not possible.

  Args:
    config: Settings, with the requested metrics.
    extractor: Extractor, or its properties as a `Kind`.
    reference_rows: Whether features of individual reference images are known.
    reference_spatial: Whether the reference has moments of spatial features.
    labels: Whether the images have labels of the dataset.
  """
  statistics = 'the reference holds statistics only, without images'
  note = f'features of {extractor.name} have none; use Inception'
  reasons = {}
  for name in ('kid', 'precision', 'recall'):
    if not reference_rows:
      reasons[name] = statistics
  if not extractor.is_inception:
    reasons |= {'sfd': note, 'is': note}
  elif not reference_spatial:
    reasons['sfd'] = 'the reference holds no spatial statistics (mu_s, sigma_s)'
  if not extractor.reads_classes:
    reasons['accuracy'] = f'{extractor.name} reads no classes of the data'
  elif not labels:
    reasons['accuracy'] = (
      'no labels of the images are known (arr_1 of an .npz, or labels.txt)'
    )
  for name in config.metrics:
    if name in reasons:
      raise InputError(f'metric {name} is not possible: {reasons[name]}.')
  if config.metrics:
    return config.metrics
  return tuple(name for name in METRICS[:-1] if name not in reasons)


def measure(
  sample: Summary,
  reference: Summary,
  config: MeasureConfig,
  metrics: Sequence[str],
) -> dict[str, float]:
  """Returns the value of each metric for one set of images, by name."""
  values = {}
  if 'fd' in metrics:
    values['fd'] = frechet_distance(sample.pool, reference.pool)
  if 'sfd' in metrics:
    assert sample.spatial is not None and reference.spatial is not None
    values['sfd'] = frechet_distance(sample.spatial, reference.spatial)
  if 'is' in metrics:
    values['is'], _ = inception_score(
      sample.rows.logits, split_size=config.split_size
    )
  if 'kid' in metrics:
    size = min(
      config.kid_subset_size, len(sample.rows.pool), len(reference.rows.pool)
    )
    values['kid'], _ = kernel_distance(
      sample.rows.pool,
      reference.rows.pool,
      subsets=config.kid_subsets,
      subset_size=size,
    )
  if {'precision', 'recall'} & {*metrics}:
    values['precision'], values['recall'] = precision_recall(
      reference.rows.pool,
      sample.rows.pool,
      k=config.neighbors,
      float16=config.float16_distances,
    )
  if 'fd_inf' in metrics:
    values['fd_inf'] = extrapolated(sample.rows.pool, reference.pool)
  if 'accuracy' in metrics:
    classes = sample.rows.logits.argmax(-1)
    values['accuracy'] = float((classes == sample.labels).mean())
  return {name: values[name] for name in metrics}


def estimate(
  samples: Sequence[Summary],
  reference: Summary,
  config: MeasureConfig,
  metrics: Sequence[str],
) -> dict[str, Estimate]:
  """Returns the metrics by name, with standard errors.

  Several disjoint sets of equal size give a mean with standard error. For a
  single set, only the bootstrap gives a standard error. `config` specifies the
  number of resamples.
  """
  values = [measure(s, reference, config, metrics) for s in samples]
  if len(samples) > 1:
    return {
      name: Estimate(
        float(np.mean([v[name] for v in values])),
        float(np.std([v[name] for v in values], ddof=1) / len(values) ** 0.5),
      )
      for name in metrics
    }
  resamples: dict[str, np.ndarray] = {}
  names = [name for name in metrics if name in _RESAMPLED]
  if config.bootstrap and names:
    resamples = _bootstrap(samples[0], reference, config, names)
    if others := [name for name in metrics if name not in names]:
      logging.info('No bootstrap of %s: use --repeats.', ', '.join(others))
  return {
    name: Estimate(
      values[0][name],
      float(resamples[name].std(ddof=1)) if name in resamples else None,
      resamples.get(name),
    )
    for name in metrics
  }


def _bootstrap(
  sample: Summary,
  reference: Summary,
  config: MeasureConfig,
  metrics: Sequence[str],
) -> dict[str, np.ndarray]:
  """Returns values (resamples,) of each metric, for the same resampled rows."""
  values = {}
  for name, kind in (('fd', 'pool'), ('sfd', 'spatial')):
    if name in metrics:
      rows, real = getattr(sample.rows, kind), getattr(reference, kind)
      values[name] = bootstrap(rows, real, config.bootstrap)
  if others := [name for name in metrics if name not in values]:
    rng = np.random.default_rng(0)  # same seed as in `frechet.bootstrap`
    draws = [
      measure(sample.resampled(rng), reference, config, others)
      for _ in range(config.bootstrap)
    ]
    values |= {name: np.asarray([d[name] for d in draws]) for name in others}
  return values


def name_of(metric: str, extractor: Extractor) -> str:
  """Returns a metric's name in results: FID, or FD and the extractor's name."""
  if extractor.published:
    is_usual = extractor.about['preprocessing'] in USUAL
    note = '' if is_usual else f' ({extractor.about["preprocessing"]})'
    return _NAMES[metric] + note
  if metric in _OTHER_NAMES:
    return f'{_OTHER_NAMES[metric]} ({extractor.name})'
  return _NAMES[metric]


def as_dict(estimates: Mapping[str, Estimate]) -> dict[str, float]:
  """Returns JSON values; the key NAME_se has the standard error of NAME."""
  values = {}
  for name, item in estimates.items():
    values[name] = item.value
    if item.error is not None:
      values[f'{name}_se'] = item.error
  return values
