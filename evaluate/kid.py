"""The kernel distance KID (Binkowski et al. 2018).

KID is the mean unbiased squared MMD between random subsets of two sets, in
float64. For two subsets of m rows each, x_i and y_i, with F features:

  k(x, y) = (x.y / F + 1)^3
  MMD^2   = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j)
            - 2 mean_{i, j} k(x_i, y_j)
"""

import numpy as np

from core.errors import InputError
from evaluate.frechet import check_features, check_same_features


def kernel_distance(
  sample: np.ndarray,
  reference: np.ndarray,
  *,
  subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 2020,
) -> tuple[float, float]:
  """Returns the mean and std of KID over subsets, as torch-fidelity does.

  The mean may be negative. Raises InputError if a set is smaller than a subset,
  some features are not finite, or the sets have different F.

  Args:
    sample: Features (n, F).
    reference: Features (m, F).
    subsets: Number of pairs of subsets.
    subset_size: Rows per subset, sampled without replacement.
    seed: Seed of the `RandomState` that selects rows from `sample` and
      `reference` alternately.
  """
  sample, reference = check_features(sample), check_features(reference)
  check_same_features(sample.shape[1], reference.shape[1])
  smallest = min(len(sample), len(reference))
  if subsets < 1 or not 1 < subset_size <= smallest:
    raise InputError(
      f'KID with {subsets} subsets of {subset_size} images, expected at least '
      f'1 subset of 2 to {smallest} images; lower subset_size or sample more '
      'images.'
    )
  rng = np.random.RandomState(seed)

  def draw(features):
    rows = rng.choice(len(features), subset_size, replace=False)
    return np.float64(features[rows])

  values = [_mmd(draw(sample), draw(reference)) for _ in range(subsets)]
  return float(np.mean(values)), float(np.std(values))


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
  def kernel(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3

  def mean_of_pairs(a):
    k = kernel(a, a)
    return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

  return mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean()
