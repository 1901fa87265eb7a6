"""Muon as the LightningDiT of Internal Guidance is trained with it.

For the gradient g of a matrix (arXiv 2512.24176, LightningDiT code, which is
Jordan et al. 2024 with the second factor of Liu et al., arXiv 2502.16982):

  m <- momentum m + (1 - momentum) g
  u  = momentum m + (1 - momentum) g                               (Nesterov)
  x  = u / (||u|| + 1e-7); five times: a = x x^T,
  x <- A x + (B a + C a a) x
  update = sqrt(max(1, rows / columns)) 0.2 sqrt(max(rows, columns)) x

`optax.contrib.muon` cannot be made equal: it divides m and g by different
corrections of bias, which turns u; it has one factor or the other, not their
product; it has no bfloat16.

Rows and columns are those of the published matrices (outputs, inputs). Our
kernels are their transposes, stacked along leading axes; each matrix is taken
on its own.
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
# Fixed tables, parameters only because published files carry them.
FROZEN = ('position', 'rotary')
MATRICES = ('kernel', 'label_embed')


class MuonState(NamedTuple):
  """The average m of the gradients, as a tree of the parameters."""

  momentum: Any


def groups(params: Any) -> Any:
  """Returns the rule of each parameter: 'muon', 'adam' or 'frozen' (none)."""

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
  """Singular values to about 1 (0.7 to 1.2), singular vectors kept.

  In bfloat16 it rounds where the published code does, unless XLA keeps more
  digits than asked (`xla_allow_excess_precision`), as it may under jit.

  Args:
    u: (..., rows, columns); leading axes stack matrices.
    steps: of the iteration.
    dtype: it is computed in.

  Returns:
    The same shape and dtype as `u`.
  """
  # Else accelerators multiply float32 in less.
  matmul = functools.partial(jnp.matmul, precision='highest')

  def scale(c, x):  # the coefficient in bfloat16 would be off by 0.2%
    return (np.float64(c) * x).astype(x.dtype)

  tall = u.shape[-2] > u.shape[-1]
  x = (u.mT if tall else u).astype(dtype)
  x = _spread(x)
  norm = jnp.linalg.norm(x.astype(u.dtype), axis=(-2, -1), keepdims=True)
  x /= norm.astype(dtype) + 1e-7
  for _ in range(steps):
    a = matmul(x, x.mT)
    x = scale(A, x) + matmul(scale(B, a) + scale(C, matmul(a, a)), x)
  return (x.mT if tall else x).astype(u.dtype)


def _spread(x: jax.Array) -> jax.Array:
  """Each matrix of a stack whole on one device, the stack over several.

  Cut matrices would be gathered in every product, and whole ones iterated on
  every device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if x.ndim < 3 or mesh.empty:
    return x
  for axes in (BATCH_AXES, ('fsdp',), ('data',)):
    if 1 < math.prod(mesh.shape[axis] for axis in axes) <= len(x):
      return constrain(x, axes)
  return constrain(x)


def shape_factor(path: str, rows: int, columns: int) -> float:
  """Product of both factors for the parameter at `path`."""
  # The published patch kernel is (D, C, p, p), flattened but for the second
  # factor, which sees its first two sides; the longer of them is D.
  longest = rows if 'patch_embed' in path else max(rows, columns)
  return max(1, rows / columns) ** 0.5 * 0.2 * longest**0.5


def scale_by_muon(momentum: float, dtype: str) -> optax.GradientTransformation:
  """Gradients of matrices to updates, before decay and learning rate.

  Args:
    momentum: decay of the average.
    dtype: of the orthogonalisation; published bfloat16.

  Returns:
    A transformation of a tree in which every leaf is a matrix or a stack.
  """

  def average(m, g):
    return momentum * m + (1 - momentum) * g

  def direction(path, m, g):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    turned = not path.endswith('label_embed')  # published as it is here
    u = average(m, g)
    u = u.mT if turned else u  # (..., rows, columns)
    x = shape_factor(path, *u.shape[-2:]) * newton_schulz(u, dtype=dtype)
    return x.mT if turned else x

  def init(params):
    return MuonState(optax.tree.zeros_like(params))

  def update(grads, state, params=None):
    del params
    m = jax.tree.map(average, state.momentum, grads)
    return jax.tree.map_with_path(direction, m, grads), MuonState(m)

  return optax.GradientTransformation(init, update)
