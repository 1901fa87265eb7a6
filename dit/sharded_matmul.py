"""The product of a linear layer whose kernel is stored cut and wide.

  y = x K,   dx = dy K^T,   dK = x^T dy

`jax.grad` of the plain product would keep K as it was used, gathered and cast,
for the backward pass, and sum dK over the devices as narrow as y and on all of
them. Here K is gathered anew, dK is summed in K's own precision, and each
device receives its slice of it: what fully sharded training means.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call

from dit.sharding import constrain


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def product(
  x: jax.Array,
  kernel: jax.Array,
  parts: tuple[int, ...],
  cut: tuple[str | None, ...],
) -> jax.Array:
  """Rows times the kernel.

  Args:
    x: (T, inputs), of the precision to compute in.
    kernel: (inputs, outputs), cast to that precision.
    parts: axes that the outputs are split into.
    cut: mesh axes that cut the product: that of the inputs, then of each part;
      what is left out is whole.

  Returns:
    (T, *parts).
  """
  return jnp.tensordot(x, _gathered(kernel, x.dtype, parts, cut), 1)


@product.defjvp
def _jvp(parts, cut, primals, tangents):
  x, kernel = primals
  dx, d_kernel = tangents

  def from_x(kernel, dx):
    return product(dx, kernel, parts, cut)

  def to_x(kernel, dy):
    gathered = _gathered(kernel, x.dtype, parts, cut)
    return jnp.tensordot(dy, gathered, (axes(dy), axes(gathered)))

  def from_kernel(x, d_kernel):
    return product(x, d_kernel, parts, cut)

  def to_kernel(x, dy):
    # Cast after the sum over rows, which runs over devices too.
    d_kernel = jax.lax.dot_general(
      x, dy, (((0,), (0,)), ((), ())), preferred_element_type=kernel.dtype
    )
    return d_kernel.reshape(kernel.shape)

  def axes(y):
    return tuple(range(1, y.ndim))

  return product(x, kernel, parts, cut), (
    linear_call(from_x, to_x, kernel, dx)
    + linear_call(from_kernel, to_kernel, x, d_kernel)
  )


def _gathered(
  kernel: jax.Array,
  dtype: jnp.dtype,
  parts: tuple[int, ...],
  cut: tuple[str | None, ...],
) -> jax.Array:
  """(inputs, *parts) as it is used; gathered behind the cast, so narrow."""
  return constrain(kernel.astype(dtype).reshape(-1, *parts), *cut)
