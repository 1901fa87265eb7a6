"""The kernel distance KID (Binkowski et al. 2018).

It is the unbiased squared MMD of m rows x of one set and m rows y of the other,
averaged over random subsets:

  k(x, y) = (x.y / F + 1)^3
  MMD^2   = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j)
            - 2 mean_{i, j} k(x_i, y_j)

All in float64.
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
  """KID of (n, F) features to (m, F) reference features, as torch-fidelity.

  Args:
    sample: (n, F).
    reference: (m, F).
    subsets: how many pairs of subsets are drawn.
    subset_size: rows of a subset, drawn without replacement.
    seed: of the one `RandomState` that draws first from `sample`, then from
      `reference`, in turns.

  Returns:
    Mean and standard deviation over the subsets. The mean may be below zero.

  Raises:
    InputError: a set is smaller than a subset, some features are not finite, or
      the sets differ in F.
  """
  sample, reference = check_features(sample), check_features(reference)
  check_same_features(sample.shape[1], reference.shape[1])
  smallest = min(len(sample), len(reference))
  if subsets < 1 or not 1 < subset_size <= smallest:
    raise InputError(
      f'KID with {subsets} subsets of {subset_size} images, expected at least '
      f'1 subset of 2 to {smallest} images; lower subset_size or draw more '
      'images.'
    )
  rng = np.random.RandomState(seed)

  def draw(features):
    rows = rng.choice(len(features), subset_size, replace=False)
    return np.float64(features[rows])

  values = [_mmd(draw(sample), draw(reference)) for _ in range(subsets)]
  return float(np.mean(values)), float(np.std(values))


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
  """The unbiased squared MMD of (m, F) and (m, F)."""

  def kernel(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3

  def mean_of_pairs(a):
    k = kernel(a, a)
    return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

  return mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean()
