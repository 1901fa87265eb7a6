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

from dit.errors import InputError

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

  def uncounted(self) -> 'Moments':
    """The same, which warn of no small count and share no root."""
    return dataclasses.replace(self, count=None)

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


def extrapolated(
  sample: np.ndarray,
  reference: np.ndarray | Moments,
  *,
  divisions: int = 5,
  seed: int = 0,
) -> float:
  """The distance of infinitely many images, without the bias of few.

  That bias falls as 1 / n (Chong & Forsyth 2020, arXiv 1911.07023, who fit a
  line through many n), so two sizes tell it: 2 d^2(n) - d^2(n / 2). It may come
  out negative where there is no distance.

  Args:
    sample: features (n, F).
    reference: features (m, F), halved too; or moments, whose own bias stays.
    divisions: into two random halves, over which d^2(n / 2) is averaged.
    seed: of the divisions.

  Returns:
    The estimate.
  """
  rng = np.random.default_rng(seed)
  whole = reference if isinstance(reference, Moments) else Moments.of(reference)
  halves = []
  for _ in range(divisions):
    parts = np.array_split(sample[rng.permutation(len(sample))], 2)
    others = 2 * [whole]
    if not isinstance(reference, Moments):
      rows = reference[rng.permutation(len(reference))]
      others = [Moments.of(half) for half in np.array_split(rows, 2)]
    halves += [
      _distance(Moments.of(part), other)
      for part, other in zip(parts, others, strict=True)
    ]
  return 2 * frechet_distance(Moments.of(sample), whole) - float(
    np.mean(halves)
  )


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
