"""Patches, and embeddings of position, time and label.

positions  [sin(p w_k), cos(p w_k)], w_k = 10000^(-k / (D/4)); p is the column
           in the first half of D, and the row in the second half
rotary     rotates two adjacent channels by the angle row * w_k (first half of a
           head's channels) or column * w_k (second half), where
           w_k = 10000^(-k / (head width / 4)); `positions` are added too
time       [cos(t f_k), sin(t f_k)], f_k = 10000^(-k / 128), k < 128, through
           Linear, SiLU, Linear; t is the network's time
label      a table with a row for each class, and one for the null label
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dit.config import DiTConfig
from dit.layers import Dense, wide

FREQUENCIES = 256
_MAX_PERIOD = 10_000.0


def patchify(x: jax.Array, patch: int) -> jax.Array:
  """(B, H, W, C) -> (B, N, patch * patch * C), tokens in row-major order."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // patch, patch, w // patch, patch, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)  # (B, rows, columns, patch, patch, C)
  return x.reshape(b, -1, patch * patch * c)


def unpatchify(tokens: jax.Array, patch: int) -> jax.Array:
  """(B, N, patch * patch * C) -> (B, H, W, C), the inverse of `patchify`."""
  b, n, f = tokens.shape
  side = round(n**0.5)
  x = tokens.reshape(b, side, side, patch, patch, f // patch**2)
  x = x.transpose(0, 1, 3, 2, 4, 5)  # (B, rows, patch, columns, patch, C)
  return x.reshape(b, side * patch, side * patch, -1)


def position_table(side: int, width: int) -> np.ndarray:
  """Returns the fixed 2-D sin-cos table, (side * side, width) float32."""
  omega = _MAX_PERIOD ** (-np.arange(width // 4) / (width / 4))
  angles = np.arange(side)[:, None] * omega  # (side, D/4), float64
  axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  column = np.broadcast_to(axis[None, :], (side, side, width // 2))
  row = np.broadcast_to(axis[:, None], (side, side, width // 2))
  table = np.concatenate([column, row], axis=-1)
  return table.reshape(side * side, width).astype(np.float32)


def rotary_table(side: int, head_width: int) -> np.ndarray:
  """Returns cosines and sines of rotary angles, (2, side^2, head_width)."""
  omega = _MAX_PERIOD ** (-np.arange(head_width // 4) / (head_width / 4))
  axis = np.repeat(np.arange(side)[:, None] * omega, 2, axis=1)
  row = np.broadcast_to(axis[:, None], (side, side, head_width // 2))
  column = np.broadcast_to(axis[None, :], (side, side, head_width // 2))
  angles = np.concatenate([row, column], axis=-1).reshape(side * side, -1)
  return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def time_features(t: jax.Array) -> jax.Array:
  """Maps times (B,) to (B, FREQUENCIES) float32, cosines first."""
  half = FREQUENCIES // 2
  # The frequencies are float32, as in the training of published networks. The
  # last digits matter, since DiT's times reach 999.
  log_period = np.log(np.float32(_MAX_PERIOD))
  exponents = -log_period * np.arange(half, dtype=np.float32) / np.float32(half)
  frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
  # This frequency is almost halfway between two float32 numbers, and PyTorch
  # (2.13, CPU) rounds it up. All other frequencies are rounded to nearest. The
  # effect is 4e-7 of DiT's output.
  frequencies[12] = np.nextafter(frequencies[12], np.float32(1))
  angles = t.astype(jnp.float32)[:, None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedder(nnx.Module):
  """The time embedding in float32 or wider; normal(0.02) weights, as in DiT."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    def dense(inputs: int) -> Dense:
      return Dense(
        inputs,
        config.width,
        kernel_init=nnx.initializers.normal(0.02),
        dtype=wide(config.activation_dtype),
        param_dtype=config.param_dtype,
        rngs=rngs,
      )

    self.fc1 = dense(FREQUENCIES)
    self.fc2 = dense(config.width)

  def __call__(self, t: jax.Array) -> jax.Array:
    """(B,) -> (B, D)."""
    return self.fc2(jax.nn.silu(self.fc1(time_features(t))))
