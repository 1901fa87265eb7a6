"""A linear layer's matmul y = x K; K is sharded and more precise than x.

  y = x K,   dx = dy K^T,   dK = x^T dy

For fully sharded training, `product` gathers K again in the backward pass, and
reduce-scatters dK in the precision of K. `jax.grad` of a plain matmul would
store the gathered, cast copy of K, and all-reduce dK in the precision of y.
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
  """Returns x times the kernel, (T, *parts).

  Args:
    x: T rows (T, inputs), in the precision of the computation.
    kernel: (inputs, outputs); this function casts it to the precision of x.
    parts: Sizes of the axes that the outputs are split into.
    cut: Mesh axis of the inputs, then the mesh axis of each part; axes without
      an entry are unsharded.
  """
  return jnp.tensordot(x, _gather(kernel, x.dtype, parts, cut), 1)


@product.defjvp
def _jvp(parts, mesh_axes, primals, tangents):
  x, kernel = primals
  dx, d_kernel = tangents

  def from_x(kernel, dx):
    return product(dx, kernel, parts, mesh_axes)

  def to_x(kernel, dy):
    copy = _gather(kernel, x.dtype, parts, mesh_axes)
    return jnp.tensordot(dy, copy, (axes(dy), axes(copy)))

  def from_kernel(x, d_kernel):
    return product(x, d_kernel, parts, mesh_axes)

  def to_kernel(x, dy):
    # The sum over rows and devices is in the kernel's precision.
    d_kernel = jax.lax.dot_general(
      x, dy, (((0,), (0,)), ((), ())), preferred_element_type=kernel.dtype
    )
    return d_kernel.reshape(kernel.shape)

  def axes(y):
    return tuple(range(1, y.ndim))

  return product(x, kernel, parts, mesh_axes), (
    linear_call(from_x, to_x, kernel, dx)
    + linear_call(from_kernel, to_kernel, x, d_kernel)
  )


def _gather(
  kernel: jax.Array,
  dtype: jnp.dtype,
  parts: tuple[int, ...],
  mesh_axes: tuple[str | None, ...],
) -> jax.Array:
  """Returns the kernel (inputs, *parts), cast and then gathered."""
  return constrain(kernel.astype(dtype).reshape(-1, *parts), *mesh_axes)
