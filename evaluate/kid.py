"""The Inception Score, and the kernel distance KID.

Inception Score (Salimans et al. 2016), of the predictions p of a part of n
images, averaged over parts:

  IS = exp(mean_i sum_c p_ic (log p_ic - log q_c)),  q_c = mean_i p_ic

Kernel distance (Binkowski et al. 2018), the unbiased squared MMD of m rows x of
one set and m rows y of the other, averaged over random subsets:

  k(x, y) = (x.y / F + 1)^3
  MMD^2   = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j)
            - 2 mean_{i, j} k(x_i, y_j)

All in float64.
"""

import itertools

import numpy as np

from core.errors import InputError
from evaluate.frechet import check_features, check_same_features


def inception_score(
  logits: np.ndarray,
  *,
  split_size: int = 5000,
  splits: int | None = None,
  seed: int | None = None,
) -> tuple[float, float]:
  """Inception Score of (n, classes) logits.

  By default in the manner of the ADM evaluator: images in the order given, in
  parts of 5000, the last with what is left. With `splits=10, seed=2020` in that
  of torch-fidelity.

  Args:
    logits: (n, classes).
    split_size: images of a part.
    splits: number of equal parts, instead of `split_size`.
    seed: of `RandomState`, to shuffle the images with; None keeps their order.

  Returns:
    Mean and standard deviation over the parts.

  Raises:
    InputError: there are fewer images than parts, or some are not finite.
  """
  logits = check_features(logits)
  n = len(logits)
  if split_size < 1 or not 1 <= (1 if splits is None else splits) <= n:
    raise InputError(
      f'the Inception Score of {n} images with split_size={split_size}, '
      f'splits={splits}: expected parts of one image at least; use more images '
      'or fewer parts.'
    )
  order = np.arange(n)
  if seed is not None:
    order = np.random.RandomState(seed).permutation(n)
  if splits is None:
    bounds = [*range(0, n, split_size), n]
  else:
    bounds = [part * n // splits for part in range(splits + 1)]
  scores = [
    _inception_score(logits[order[start:stop]])
    for start, stop in itertools.pairwise(bounds)
  ]
  return float(np.mean(scores)), float(np.std(scores))


def _inception_score(logits: np.ndarray) -> float:
  """The score of one part."""
  log_p = np.array(logits, np.float64)
  log_p -= _log_sum_exp(log_p, axis=1)
  log_q = _log_sum_exp(log_p, axis=0) - np.log(len(log_p))
  return np.exp((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def _log_sum_exp(x: np.ndarray, axis: int) -> np.ndarray:
  """The log of sum exp x, which no x makes infinite; keeps the axis."""
  largest = x.max(axis, keepdims=True)
  return largest + np.log(np.exp(x - largest).sum(axis, keepdims=True))


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
