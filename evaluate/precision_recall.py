"""Improved precision and recall (Kynkaanniemi et al. 2019).

The manifold of a set is the union of balls around its features. The radius of a
ball is the distance to the k-th nearest neighbor in the set:

  distance(u, v) = max(|u|^2 - 2 u.v + |v|^2, 0)           squared Euclidean
  radius_i       = sorted(distance(f_i, f_j) for all j)[k]     [0] is i itself
  precision      = share of samples inside a ball of a reference image
  recall         = share of reference images inside a ball of a sample

The ADM evaluator uses these equations (openai/guided-diffusion,
evaluations/evaluator.py). Distances are computed in blocks to save memory.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError
from evaluate.frechet import check_features, check_same_features

# Rows per block. Sets are padded to whole blocks and share a compiled program.
BLOCK = 1024


def radii(
  features: np.ndarray, k: int = 3, float16: bool = False
) -> np.ndarray:
  """Returns the squared radius of the ball around each feature, (n,) float32.

  Raises InputError if there are fewer than k + 1 rows, or a row is not finite.

  Args:
    features: Features (n, F).
    k: Rank of the nearest neighbor whose distance is the radius.
    float16: Whether distances use float16, as in the ADM evaluator. A block
      with an overflow uses float32. ADM's blocks have 10,000 rows, not `BLOCK`.
  """
  features = check_features(features)
  if not 0 < k < len(features):
    raise InputError(
      f'precision and recall with k={k} need k of at least 1 and k + 1 images '
      f'per set, but there are {len(features)}; sample more or lower k.'
    )
  blocks = _blocks(features)
  result = []
  for u in blocks:
    nearest = jnp.full((BLOCK, k + 1), jnp.inf, jnp.float32)
    for number, v in enumerate(blocks):
      valid = len(features) - number * BLOCK
      nearest = _nearest(nearest, u, v, valid, float16=float16)
    result.append(nearest[:, k])
  return np.concatenate(result)[: len(features)]


def precision_recall(
  reference: np.ndarray, sample: np.ndarray, k: int = 3, float16: bool = False
) -> tuple[float, float]:
  """Returns precision and recall in [0, 1] for features (n, F) and (m, F).

  `radii` explains `k` and `float16`. Raises InputError as in `radii`, or if the
  sets have different F.
  """
  reference, sample = check_features(reference), check_features(sample)
  check_same_features(sample.shape[1], reference.shape[1])
  if not float16:  # centering avoids cancellation if the mean is far from 0
    center = reference.mean(0, dtype=np.float64)
    reference, sample = (
      (x - center).astype(np.float32) for x in (reference, sample)
    )
  # Padded rows get radius -1, so no point is inside their balls.
  reference_radii, sample_radii = (
    _pad(radii(features, k, float16), -1) for features in (reference, sample)
  )
  samples = _blocks(sample)
  cover = np.zeros(reference_radii.shape, bool)
  hits = np.zeros(sample_radii.shape, bool)
  for i, u in enumerate(_blocks(reference)):
    for j, v in enumerate(samples):
      masks = _inside(
        u, reference_radii[i], v, sample_radii[j], float16=float16
      )
      cover[i] |= masks[0]
      hits[j] |= masks[1]
  precision = hits.ravel()[: len(sample)].mean()
  recall = cover.ravel()[: len(reference)].mean()
  return float(precision), float(recall)


def _pad(rows: np.ndarray, value: float) -> np.ndarray:
  """Splits (n, ...) into (blocks, BLOCK, ...) float32, padded with `value`."""
  widths = [(0, -len(rows) % BLOCK)] + [(0, 0)] * (rows.ndim - 1)
  result = np.pad(np.float32(rows), widths, constant_values=value)
  return result.reshape(-1, BLOCK, *rows.shape[1:])


def _blocks(features: np.ndarray) -> list[jax.Array]:
  return [jnp.asarray(block) for block in _pad(features, 0)]


@functools.partial(jax.jit, static_argnames='float16')
def _nearest(nearest, u, v, valid, float16):
  """Returns the k + 1 smallest of `nearest` and the distances from u to v."""
  distances = jnp.where(
    jnp.arange(BLOCK) < valid, _distances(u, v, float16), jnp.inf
  )
  candidates = jnp.concatenate([nearest, distances], 1)
  return -jax.lax.top_k(-candidates, nearest.shape[1])[0]


@functools.partial(jax.jit, static_argnames='float16')
def _inside(u, u_radii, v, v_radii, float16):
  """Returns two masks: rows of u in balls of v, and rows of v in balls of u."""
  distances = _distances(u, v, float16)
  return (
    (distances <= v_radii).any(1),
    (distances <= u_radii[:, None]).any(0),
  )


def _distances(u, v, float16):
  """Returns squared distances (BLOCK, BLOCK), as ADM's `DistanceBlock` does."""

  def distances(u, v):
    u_norm, v_norm = jnp.square(u).sum(1), jnp.square(v).sum(1)
    # At the default precision, GPUs and TPUs round the float32 inputs.
    product = jnp.matmul(u, v.T, precision='highest')
    return jnp.maximum(u_norm[:, None] - 2 * product + v_norm, 0)

  if not float16:
    return distances(u, v)
  low_precision = distances(u.astype(jnp.float16), v.astype(jnp.float16))
  return jax.lax.cond(
    jnp.isfinite(low_precision).all(),
    lambda: low_precision.astype(jnp.float32),
    lambda: distances(u, v),
  )
