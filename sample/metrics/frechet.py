"""The Frechet distance between Gaussians fitted to two sets of features.

  d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1^1/2 S2 S1^1/2)^1/2)

in float64, by eigenvalues of symmetric matrices only: no matrix square root of
a product, which is neither symmetric nor stable (Heusel et al. 2017 define the
distance; common code takes `sqrtm` of S1 S2).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
  """Mean (F,) and covariance (F, F) of features, float64."""

  mean: np.ndarray
  covariance: np.ndarray

  @classmethod
  def of(cls, features: np.ndarray) -> 'Moments':
    """Moments of (n, F) features; the covariance divides by n - 1."""
    features = np.asarray(features, np.float64)
    return cls(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(a: Moments, b: Moments) -> float:
  """The squared distance d^2, as FID reports it."""
  values, vectors = np.linalg.eigh(a.covariance)
  root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
  cross = np.linalg.eigvalsh(root @ b.covariance @ root)
  distance = (
    np.square(a.mean - b.mean).sum()
    + np.trace(a.covariance)
    + np.trace(b.covariance)
    - 2 * np.sqrt(cross.clip(0)).sum()
  )
  return max(float(distance), 0.0)  # of equal sets: zero but for rounding


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
      frechet_distance(Moments.of(features[rng.integers(0, n, n)]), reference)
      for _ in range(resamples)
    ]
  )
