"""Layers that the autoencoders share; the norm's statistics are float32."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def conv(
  inputs: int,
  outputs: int,
  side: int = 3,
  *,
  dtype: str,
  rngs: nnx.Rngs,
  **kwargs: Any,
) -> nnx.Conv:
  """A convolution that pads alike on all sides, keeping H and W at stride 1."""
  kwargs.setdefault('padding', side // 2)
  return nnx.Conv(
    inputs, outputs, (side, side), dtype=dtype, rngs=rngs, **kwargs
  )


def group_norm(
  width: int, groups: int, epsilon: float, *, dtype: str, rngs: nnx.Rngs
) -> nnx.GroupNorm:
  """Group normalisation with gain and bias; two passes, for precision."""
  return nnx.GroupNorm(
    width,
    num_groups=groups,
    epsilon=epsilon,
    dtype=dtype,
    use_fast_variance=False,
    rngs=rngs,
  )


def upsample(h: jax.Array) -> jax.Array:
  """(B, H, W, D) -> (B, 2H, 2W, D): each pixel four times."""
  return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
