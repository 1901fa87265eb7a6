"""No autoencoder: the network works on the pixels in [-1, 1] themselves."""

import dataclasses

import jax
from flax import nnx

from dit.autoencoder.base import AutoencoderConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelsConfig(AutoencoderConfig):
  """The identity, at any size."""

  @property
  def downsampling(self) -> int:
    """None."""
    return 1

  def network(self, half: str, rngs: nnx.Rngs) -> nnx.Module:  # noqa: D102
    del half, rngs
    return Identity()


class Identity(nnx.Module):
  """What comes in goes out."""

  def __call__(self, x: jax.Array) -> jax.Array:
    """(B, H, W, C) -> the same."""
    return x
