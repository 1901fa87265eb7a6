"""The Inception Score (Salimans et al. 2016).

It is taken of the predictions p of a part of n images, averaged over parts:

  IS = exp(mean_i sum_c p_ic (log p_ic - log q_c)),  q_c = mean_i p_ic

All in float64.
"""

import itertools

import numpy as np

from core.errors import InputError
from evaluate.frechet import check_features


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
