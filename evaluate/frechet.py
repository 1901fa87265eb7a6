"""The Frechet distance between Gaussians fitted to two sets of features.

  d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((R S1 R)^1/2),  R = S2^1/2

in float64, by eigenvalues of symmetric matrices only: no matrix square root of
a product, which is neither symmetric nor stable (Heusel et al. 2017 define the
distance; common code takes `sqrtm` of S1 S2).

Features come in batches. Moments of two disjoint sets, n1 and n2 rows, merge
(Chan, Golub and LeVeque 1983) into those of their union of n = n1 + n2 rows:

  m = m1 + (n2 / n) (m2 - m1)
  (n - 1) S = (n1 - 1) S1 + (n2 - 1) S2 + (n1 n2 / n) (m2 - m1) (m2 - m1)^T
"""

import dataclasses
import functools

import numpy as np
from absl import logging

from core.errors import InputError

# Rows of a block: enough that its product x^T x outweighs merging (F, F).
BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Moments:
  """Mean and covariance of features.

  Attributes:
    mean: (F,) float64.
    covariance: (F, F) float64, divided by count - 1; of one row zeros.
    count: of rows; None where it is not known, as of statistics from a file.
  """

  mean: np.ndarray
  covariance: np.ndarray
  count: int | None = None

  @classmethod
  def of(cls, features: np.ndarray) -> 'Moments':
    """Moments of (n, F) features; the covariance divides by n - 1.

    Raises:
      InputError: see `MomentsAccumulator`.
    """
    accumulator = MomentsAccumulator()
    accumulator.add(features)
    return accumulator.moments()

  def __add__(self, other: 'Moments') -> 'Moments':
    """Moments of both sets of rows together."""
    check_same_features(len(self.mean), len(other.mean))
    if self.count is None or other.count is None:
      raise InputError(
        'moments without a count of rows cannot be merged, as those read from '
        'files; compute both from features.'
      )
    n = self.count + other.count
    step = other.mean - self.mean
    shift = np.sqrt(self.count * other.count / n / (n - 1)) * step
    return Moments(
      self.mean + other.count / n * step,
      (self.count - 1) / (n - 1) * self.covariance
      + (other.count - 1) / (n - 1) * other.covariance
      + np.outer(shift, shift),
      n,
    )

  @functools.cached_property
  def root(self) -> np.ndarray:
    """(F, F), covariance^1/2; kept, for many distances to one reference."""
    values, vectors = np.linalg.eigh(self.covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


class MomentsAccumulator:
  """Moments of features that come in batches.

  Rows fill blocks of `BLOCK`, so that the moments are the same whatever the
  batches, and the (F, F) matrices are touched once a block.
  """

  def __init__(self) -> None:
    self._block = np.empty((0, 0))
    self._filled = 0
    self._merged: Moments | None = None

  def add(self, features: np.ndarray) -> None:
    """Adds (n, F) features, copied.

    Raises:
      InputError: they are not finite, or F is not that of the batches before.
    """
    features = check_features(features)
    if not self._block.size:
      self._block = np.empty((BLOCK, features.shape[1]))
    check_same_features(self._block.shape[1], features.shape[1])
    while len(features):
      taken = features[: BLOCK - self._filled]
      self._block[self._filled : self._filled + len(taken)] = taken
      self._filled += len(taken)
      features = features[len(taken) :]
      if self._filled == BLOCK:
        self._merge_block()

  def moments(self) -> Moments:
    """Moments of all rows that were added; more may follow.

    Raises:
      InputError: there are no rows.
    """
    if self._filled:
      self._merge_block()
    if self._merged is None:
      raise InputError('there are no features: expected one image at least.')
    return self._merged

  def _merge_block(self) -> None:
    x, self._filled = self._block[: self._filled], 0
    mean = x.mean(0)
    x -= mean
    # The divisor of a single row is 0 / 0; its scatter is zero.
    moments = Moments(mean, x.T @ x / max(len(x) - 1, 1), len(x))
    self._merged = self._merged + moments if self._merged else moments


def check_features(features: np.ndarray) -> np.ndarray:
  """Features as an array (n, F).

  Raises:
    InputError: they have another rank, no columns or are not finite.
  """
  features = np.asarray(features)
  if features.ndim != 2 or not features.shape[1]:
    raise InputError(
      f'features have shape {features.shape}, expected (images, features); '
      'flatten all that belongs to an image.'
    )
  bad = len(features) - np.isfinite(features).all(1).sum()
  if bad:
    raise InputError(
      f'{bad} of {len(features)} rows of features are NaN or infinite, '
      'expected finite numbers; look at the images of these rows, and at the '
      'weights that drew them.'
    )
  return features


def check_same_features(one: int, other: int) -> None:
  """Raises InputError unless two sets have as many features an image."""
  if one != other:
    raise InputError(
      f'the sets have {one} and {other} features an image, expected the same '
      'number; use one extractor for both.'
    )


def frechet_distance(sample: Moments, reference: Moments) -> float:
  """The squared distance d^2, as FID reports it; symmetric but for rounding.

  Warns of sets with fewer than F + 1 rows. The root of `reference` is kept.

  Raises:
    InputError: the sets differ in F, or one is a single row.
  """
  for name, moments in (('sample', sample), ('reference', reference)):
    needed = len(moments.mean) + 1
    if moments.count == 1:
      raise InputError(
        f'the {name} set is a single image, which has no covariance; expected '
        f'2 at least, better more than {needed - 1}.'
      )
    if moments.count is not None and moments.count < needed:
      logging.warning(
        'The %s set has %d images for %d features: with fewer than %d its '
        'covariance is rank-deficient and the distance biased; use more.',
        name, moments.count, needed - 1, needed,
      )  # fmt: skip
  return _distance(sample, reference)


def _distance(sample: Moments, reference: Moments) -> float:
  check_same_features(len(sample.mean), len(reference.mean))
  cross = np.linalg.eigvalsh(
    reference.root @ sample.covariance @ reference.root
  )
  distance = (
    np.square(sample.mean - reference.mean).sum()
    + np.trace(sample.covariance)
    + np.trace(reference.covariance)
    - 2 * np.sqrt(cross.clip(0)).sum()
  )
  return max(float(distance), 0.0)  # of equal sets: zero but for rounding


def least_rows(features: int) -> int:
  """Returns the number of images that `extrapolated` needs for its features."""
  return 5 * (features + 1)


def extrapolated(sample: np.ndarray, reference: Moments) -> float:
  """Estimates the distance of infinitely many images: FID-infinity.

  The covariance of n images is biased such that the distance is too large by
  about c / n. Chong and Forsyth (2020, arXiv 1911.07023) take the distances of
  random subsets of 15 sizes at equal steps of n, fit a line over 1 / n by least
  squares, and read it at 1 / n = 0. Their sizes run from 5,000 to all 50,000
  images; ours from a tenth of all, at least 2 (F + 1), to all, which is the
  same for 50,000 images and the 2,048 features of Inception. Below twice F the
  bias no longer falls as 1 / n.

  The reference is taken as it is: the bias of its own number of images stays.
  The estimate may be negative where the distance is 0.

  Args:
    sample: Features (n, F).
    reference: Moments of all real images.

  Returns:
    The estimate.

  Raises:
    InputError: if n is less than `least_rows(F)`.
  """
  n, features = sample.shape
  if n < (least := least_rows(features)):
    raise InputError(
      f'{n} images of {features} features are too few for fd_inf, which fits a '
      f'line through smaller sets; expected at least {least}.'
    )
  rng = np.random.default_rng(0)
  counts = np.linspace(max(n / 10, 2 * (features + 1)), n, 15).astype(int)
  distances = [
    _distance(Moments.of(sample[rng.permutation(n)[:count]]), reference)
    for count in counts
  ]
  _, at_zero = np.polyfit(1 / counts, distances, 1)
  return float(at_zero)


def bootstrap(
  features: np.ndarray, reference: Moments, resamples: int, seed: int = 0
) -> np.ndarray:
  """Distances of resampled (n, F) features to `reference`, (resamples,).

  Each resample takes n rows with replacement. The standard deviation is the
  standard error of the distance: how much the figure would move with other
  images of the same sampler. Two sets of equal n are resampled at the same
  rows, so that for sets paired row by row (the same labels and noise) the
  standard deviation of the differences is the standard error of the difference.
  """
  rng = np.random.default_rng(seed)
  n = len(features)
  return np.asarray(
    [
      _distance(Moments.of(features[rng.integers(0, n, n)]), reference)
      for _ in range(resamples)
    ]
  )
