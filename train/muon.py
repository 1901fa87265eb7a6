"""Muon as in the LightningDiT code of Internal Guidance (arXiv 2512.24176).

The code combines Muon of Jordan et al. 2024 with a second scale factor, which
is from Liu et al. (arXiv 2502.16982). For the gradient g of a matrix:

  m <- momentum m + (1 - momentum) g
  u  = momentum m + (1 - momentum) g                               (Nesterov)
  x  = u / (||u|| + 1e-7); then, five times with constants A, B and C:
  a  = x x^T,  x <- A x + (B a + C a a) x
  update = sqrt(max(1, rows / columns)) 0.2 sqrt(max(rows, columns)) x

`optax.contrib.muon` cannot reproduce this update. Its bias corrections of m and
g differ from each other, which rotates u. Besides, optax applies only one of
the two scale factors and cannot compute in bfloat16.

Rows and columns refer to the published (outputs, inputs) matrices. The kernels
in this project are the transposed matrices, stacked along leading axes.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dit.sharding import BATCH_AXES, constrain

A, B, C = 3.4445, -4.7750, 2.0315
# Fixed tables, which are parameters only because published files contain them.
FROZEN = ('position', 'rotary')
MATRICES = ('kernel', 'label_embed')


class MuonState(NamedTuple):
  """The moving average m of the gradients, shaped like the parameters."""

  momentum: Any


def groups(params: Any) -> Any:
  """Returns 'muon', 'adam' or 'frozen' for each parameter."""

  def group(path, leaf):
    del leaf
    name = path[-1].key
    if name in FROZEN:
      return 'frozen'
    return 'muon' if name in MATRICES else 'adam'

  return jax.tree.map_with_path(group, params)


def newton_schulz(
  u: jax.Array, steps: int = 5, dtype: str = 'bfloat16'
) -> jax.Array:
  """Maps singular values to about 1 (0.7 to 1.2) and keeps singular vectors.

  The leading axes of `u` (..., rows, columns) stack matrices. The result has
  the shape and dtype of `u`, and the computation uses `dtype`. In bfloat16,
  this function rounds like the published code. Under jit, XLA may omit
  roundings (`xla_allow_excess_precision`).
  """
  # By default, accelerators multiply float32 matrices in lower precision.
  matmul = functools.partial(jnp.matmul, precision='highest')

  def scale(c, x):  # rounding c to bfloat16 would cause an error of 0.2%
    return (np.float64(c) * x).astype(x.dtype)

  tall = u.shape[-2] > u.shape[-1]
  x = (u.mT if tall else u).astype(dtype)
  x = _shard(x)
  norm = jnp.linalg.norm(x.astype(u.dtype), axis=(-2, -1), keepdims=True)
  x /= norm.astype(dtype) + 1e-7
  for _ in range(steps):
    a = matmul(x, x.mT)
    x = scale(A, x) + matmul(scale(B, a) + scale(C, matmul(a, a)), x)
  return (x.mT if tall else x).astype(u.dtype)


def _shard(x: jax.Array) -> jax.Array:
  """Distributes a stack over devices and keeps each matrix on one device.

  If a matrix were sharded, every matrix product would gather the shards. If all
  devices had all matrices, every device would repeat the same computation.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if x.ndim < 3 or mesh.empty:
    return x
  for axes in (BATCH_AXES, ('fsdp',), ('data',)):
    if 1 < math.prod(mesh.shape[axis] for axis in axes) <= len(x):
      return constrain(x, axes)
  return constrain(x)


def shape_factor(path: str, rows: int, columns: int) -> float:
  """Returns the product of both scale factors for the parameter at `path`."""
  # The published patch kernel is (D, C, p, p) with D > C, so max(D, C) = D
  # in the second factor. All other computations flatten the kernel to D rows.
  longest = rows if 'patch_embed' in path else max(rows, columns)
  return max(1, rows / columns) ** 0.5 * 0.2 * longest**0.5


def scale_by_muon(momentum: float, dtype: str) -> optax.GradientTransformation:
  """Converts gradients to updates, before weight decay and learning rate.

  The leaves of the tree are matrices or stacks of matrices. `dtype` is the type
  of the orthogonalization; the published code uses bfloat16.
  """

  def average(m, g):
    return momentum * m + (1 - momentum) * g

  def direction(path, m, g):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    flip = not path.endswith('label_embed')  # label_embed is not transposed
    u = average(m, g)
    u = u.mT if flip else u  # (..., rows, columns)
    x = shape_factor(path, *u.shape[-2:]) * newton_schulz(u, dtype=dtype)
    return x.mT if flip else x

  def init(params):
    return MuonState(optax.tree.zeros_like(params))

  def update(grads, state, params=None):
    del params
    m = jax.tree.map(average, state.momentum, grads)
    return jax.tree.map_with_path(direction, m, grads), MuonState(m)

  return optax.GradientTransformation(init, update)
