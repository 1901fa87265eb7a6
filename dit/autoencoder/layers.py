"""Layers shared by the autoencoders; norm statistics are float32."""

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
  """Returns a convolution that preserves H and W if its stride is 1."""
  kwargs.setdefault('padding', side // 2)
  return nnx.Conv(
    inputs, outputs, (side, side), dtype=dtype, rngs=rngs, **kwargs
  )


def group_norm(
  width: int, groups: int, epsilon: float, *, dtype: str, rngs: nnx.Rngs
) -> nnx.GroupNorm:
  """Returns a group norm with gain, bias and precise two-pass variance."""
  return nnx.GroupNorm(
    width,
    num_groups=groups,
    epsilon=epsilon,
    dtype=dtype,
    use_fast_variance=False,
    rngs=rngs,
  )


def upsample(h: jax.Array) -> jax.Array:
  """Replaces each pixel by 2 x 2 copies, (B, H, W, D) -> (B, 2H, 2W, D)."""
  return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
