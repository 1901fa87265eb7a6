"""Stored images to latents and back: both directions live here.

  pixels   x = image / 127.5 - 1       image = round(127.5 (x + 1)), clipped

with image uint8 in [0, 255] and x float32 in [-1, 1].
"""

import jax
import jax.numpy as jnp


def from_pixels(image: jax.Array) -> jax.Array:
  """(B, H, W, C) uint8 -> float32 in [-1, 1]."""
  return image.astype(jnp.float32) / 127.5 - 1


def to_pixels(x: jax.Array) -> jax.Array:
  """(B, H, W, C) float -> uint8; values outside [-1, 1] are clipped."""
  return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
