"""The Inception Score (Salimans et al. 2016).

For one part of a set with class probabilities p, the score in float64 is

  IS = exp(mean_i sum_c p_ic (log p_ic - log q_c)),  q_c = mean_i p_ic
"""

import numpy as np
from scipy import special

from core.errors import InputError
from evaluate.frechet import check_features


def inception_score(
  logits: np.ndarray, *, split_size: int = 5000
) -> tuple[float, float]:
  """Returns mean and standard deviation of the score over parts, as in ADM.

  A part consists of `split_size` consecutive rows of the logits (n, classes).
  The last part may be smaller. Raises InputError if the parts are empty, or
  some logits are not finite.
  """
  logits = check_features(logits)
  if split_size < 1 or not len(logits):
    raise InputError(
      f'the Inception Score of {len(logits)} images with '
      f'split_size={split_size}: expected parts of at least one image.'
    )
  scores = [
    _inception_score(logits[start : start + split_size])
    for start in range(0, len(logits), split_size)
  ]
  return float(np.mean(scores)), float(np.std(scores))


def _inception_score(logits: np.ndarray) -> float:
  log_p = special.log_softmax(np.float64(logits), axis=1)
  log_q = special.logsumexp(log_p, axis=0) - np.log(len(log_p))
  return np.exp((np.exp(log_p) * (log_p - log_q)).sum(1).mean())
