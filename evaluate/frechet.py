"""The Frechet distance between Gaussians fitted to two sets of features.

  d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((R S1 R)^1/2),  R = S2^1/2

The Gaussians have means m1, m2 and covariances S1, S2 in float64 (Heusel et al.
2017). This form of d^2 needs only eigenvalues of symmetric matrices. Most code
computes `sqrtm` of S1 S2 instead. The product S1 S2 is not symmetric, and its
`sqrtm` is numerically unstable.

Moments of two disjoint sets with n1 and n2 rows determine the moments of their
union with n = n1 + n2 rows (Chan, Golub and LeVeque 1983):

  m = m1 + (n2 / n) (m2 - m1)
  (n - 1) S = (n1 - 1) S1 + (n2 - 1) S2 + (n1 n2 / n) (m2 - m1) (m2 - m1)^T
"""

import dataclasses
import functools

import numpy as np
from absl import logging

from core.errors import InputError

# Rows per block: enough that x^T x of a block x costs more than a merge.
BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Moments:
  """Mean and covariance of features.

  Attributes:
    mean: Mean (F,) float64.
    covariance: Covariance (F, F) float64 with divisor count - 1; 0 for one row.
    count: Number of rows; None if it is unknown, as in some published files.
  """

  mean: np.ndarray
  covariance: np.ndarray
  count: int | None = None

  @classmethod
  def of(cls, features: np.ndarray) -> 'Moments':
    """Returns the moments of (n, F) features; see `MomentsAccumulator`."""
    accumulator = MomentsAccumulator()
    accumulator.add(features)
    return accumulator.moments()

  def __add__(self, other: 'Moments') -> 'Moments':
    """Returns the moments of the union of two disjoint sets of rows."""
    check_same_features(len(self.mean), len(other.mean))
    if self.count is None or other.count is None:
      raise InputError(
        'moments without a count of rows, such as those read from files, '
        'cannot be merged; compute both from features.'
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
    """Square root (F, F) of the covariance matrix, cached."""
    values, vectors = np.linalg.eigh(self.covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


class MomentsAccumulator:
  """Accumulates moments of batches of features.

  The rows of all batches form blocks of `BLOCK` rows. Therefore, the moments do
  not depend on batch sizes, and (F, F) matrices are merged only once per block.
  """

  def __init__(self) -> None:
    self._block = np.empty((0, 0))
    self._filled = 0
    self._merged: Moments | None = None

  def add(self, features: np.ndarray) -> None:
    """Adds a copy of (n, F) features.

    Raises InputError if features are not finite, or F differs between batches.
    """
    features = check_features(features)
    if not self._block.size:
      self._block = np.empty((BLOCK, features.shape[1]))
    check_same_features(self._block.shape[1], features.shape[1])
    while len(features):
      part = features[: BLOCK - self._filled]
      self._block[self._filled : self._filled + len(part)] = part
      self._filled += len(part)
      features = features[len(part) :]
      if self._filled == BLOCK:
        self._merge_block()

  def moments(self) -> Moments:
    """Returns the moments of all rows; raises InputError if there are none."""
    if self._filled:
      self._merge_block()
    if self._merged is None:
      raise InputError('there are no features: expected one image at least.')
    return self._merged

  def _merge_block(self) -> None:
    x, self._filled = self._block[: self._filled], 0
    mean = x.mean(0)
    x -= mean
    # For a single row, x is 0, so any nonzero divisor gives covariance 0.
    moments = Moments(mean, x.T @ x / max(len(x) - 1, 1), len(x))
    self._merged = self._merged + moments if self._merged else moments


def check_features(features: np.ndarray) -> np.ndarray:
  """Checks features, and returns them as an array (n, F).

  Raises InputError if they are not finite, not (n, F), or have no columns.
  """
  features = np.asarray(features)
  if features.ndim != 2 or not features.shape[1]:
    raise InputError(
      f'features have shape {features.shape}, expected (images, features); '
      'flatten the features of each image.'
    )
  num_bad = len(features) - np.isfinite(features).all(1).sum()
  if num_bad:
    raise InputError(
      f'{num_bad} of {len(features)} rows of features are NaN or infinite, '
      'expected finite numbers; check the images of these rows, and the '
      'weights that generated them.'
    )
  return features


def check_same_features(one: int, other: int) -> None:
  """Raises InputError if two sets have different numbers of features."""
  if one != other:
    raise InputError(
      f'the sets have {one} and {other} features per image, expected the same '
      'number; use one extractor for both.'
    )


def frechet_distance(sample: Moments, reference: Moments) -> float:
  """Returns the squared distance d^2 that FID reports.

  d^2 is symmetric up to rounding. A set of at most F rows causes a warning.
  Raises InputError if the sets have different F, or a set has a single row.
  """
  for name, moments in (('sample', sample), ('reference', reference)):
    minimum = len(moments.mean) + 1
    if moments.count == 1:
      raise InputError(
        f'the {name} set is a single image, which has no covariance; expected '
        f'at least 2, better more than {minimum - 1}.'
      )
    if moments.count is not None and moments.count < minimum:
      logging.warning(
        'The %s set has %d images for %d features: with fewer than %d its '
        'covariance is rank-deficient and the distance biased; use more.',
        name, moments.count, minimum - 1, minimum,
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
  return max(float(distance), 0.0)  # rounding may give a negative distance


def least_rows(features: int) -> int:
  """Returns the smallest number of images that `extrapolated` accepts."""
  return 5 * (features + 1)


def extrapolated(sample: np.ndarray, reference: Moments) -> float:
  """Estimates FID-infinity, the distance for infinitely many images.

  The distance of n images with features (n, F) is too large by about c / n.
  Chong and Forsyth (2020, arXiv 1911.07023) compute the distance for random
  subsets of 15 equally spaced sizes. They fit a line in 1 / n to the distances
  by least squares, and extrapolate the line to 1 / n = 0. Their sizes range
  from 5,000 to all 50,000 images. Our sizes range from max(n / 10, 2 (F + 1))
  to n, which is the same range for 50,000 images and Inception's 2,048
  features. Below 2 F images, the bias is no longer proportional to 1 / n.

  The bias due to the size of the reference remains. Estimates may be negative.
  Raises InputError if n is less than `least_rows(F)`.
  """
  n, features = sample.shape
  if n < (minimum := least_rows(features)):
    raise InputError(
      f'{n} images of {features} features are too few for fd_inf, which fits a '
      f'line through smaller sets; expected at least {minimum}.'
    )
  rng = np.random.default_rng(0)
  counts = np.linspace(max(n / 10, 2 * (features + 1)), n, 15).astype(int)
  distances = [
    _distance(Moments.of(sample[rng.permutation(n)[:count]]), reference)
    for count in counts
  ]
  _, intercept = np.polyfit(1 / counts, distances, 1)
  return float(intercept)


def bootstrap(
  features: np.ndarray, reference: Moments, resamples: int, seed: int = 0
) -> np.ndarray:
  """Returns distances (resamples,) of bootstrap resamples of (n, F) features.

  The standard deviation of these distances estimates the standard error. Two
  sets of equal n are resampled at the same rows. If they share labels and
  noise, the std of the differences estimates the standard error of the
  difference.
  """
  rng = np.random.default_rng(seed)
  n = len(features)
  return np.asarray(
    [
      _distance(Moments.of(features[rng.integers(0, n, n)]), reference)
      for _ in range(resamples)
    ]
  )
