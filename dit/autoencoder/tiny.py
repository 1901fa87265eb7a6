"""The TAESD family of tiny autoencoders, for previews.

  block    h <- relu(h + conv(relu(conv(relu(conv(h))))))
           taef2's blocks at the lowest resolution first apply
           h <- h + conv_1(relu(group_norm_4(conv_1(h)))) with inner width 4 D
  encoder  conv, block, then three times (conv of stride 2, three blocks), conv
  decoder  3 tanh(z / 3), conv, relu, then three times (three blocks, upsampling
           by 2, conv), block, conv

Convolutions are 3 x 3 except conv_1 (1 x 1). conv_1 and the convolutions that
change resolution have no bias. SD (taesd), SDXL, SD3, FLUX.1 and FLUX.2 each
have a network (madebyollin/taesd). Latents are already scaled for the diffusion
model, so the normalization is the identity. taesd therefore decodes samples of
networks that were trained on `sd_vae` latents. Published networks use images in
[0, 1]; the classes below convert from and to images in [-1, 1].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dit.autoencoder.base import AutoencoderConfig
from dit.autoencoder.layers import conv, group_norm, upsample

Layer = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyConfig(AutoencoderConfig):
  """Shape of a tiny autoencoder.

  Attributes:
    width: Channels of all layers.
    normed: Whether blocks at the lowest resolution have taef2's norm branch.
  """

  width: int = 64
  normed: bool = False

  @property
  def downsampling(self) -> int:
    """Ratio of the image's side to the latent's side."""
    return 8

  def network(self, half: str, rngs: nnx.Rngs) -> nnx.Module:  # noqa: D102
    return {'encoder': TinyEncoder, 'decoder': TinyDecoder}[half](
      self, rngs=rngs
    )


class Block(nnx.Module):
  """Three convolutions; if `normed`, taef2's group-norm branch comes first."""

  def __init__(
    self, config: TinyConfig, *, normed: bool = False, rngs: nnx.Rngs
  ) -> None:
    relu, width = jax.nn.relu, config.width
    kwargs: dict[str, Any] = {'dtype': config.activation_dtype, 'rngs': rngs}
    convs = [conv(width, width, **kwargs) for _ in range(3)]
    self.conv = nnx.Sequential(convs[0], relu, convs[1], relu, convs[2])
    self.pool = (
      nnx.Sequential(
        conv(width, 4 * width, 1, use_bias=False, **kwargs),
        group_norm(4 * width, groups=4, epsilon=1e-5, **kwargs),
        relu,
        conv(4 * width, width, 1, use_bias=False, **kwargs),
      )
      if normed
      else None
    )

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, H, W, D) -> (B, H, W, D)."""
    if self.pool is not None:
      h = h + self.pool(h)
    return jax.nn.relu(h + self.conv(h))


class TinyEncoder(nnx.Module):
  """Maps images to latents; layers are numbered as in the original file."""

  def __init__(self, config: TinyConfig, *, rngs: nnx.Rngs) -> None:
    width = config.width
    kwargs: dict[str, Any] = {'dtype': config.activation_dtype, 'rngs': rngs}
    layers: list[Layer] = [
      conv(config.image_channels, width, **kwargs),
      Block(config, rngs=rngs),
    ]
    for has_norm in (False, False, config.normed):
      layers += [
        conv(width, width, strides=2, use_bias=False, **kwargs),
        *(Block(config, normed=has_norm, rngs=rngs) for _ in range(3)),
      ]
    layers.append(conv(width, config.latent_channels, **kwargs))
    self.layers = nnx.List(layers)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(B, 8H, 8W, 3) in [-1, 1] -> (B, H, W, C)."""
    return _apply(self.layers, (x + 1) / 2)


class TinyDecoder(nnx.Module):
  """Maps latents to images; layers are numbered as in the original file."""

  def __init__(self, config: TinyConfig, *, rngs: nnx.Rngs) -> None:
    width = config.width
    kwargs: dict[str, Any] = {'dtype': config.activation_dtype, 'rngs': rngs}
    layers: list[Layer] = [
      _soft_clip,
      conv(config.latent_channels, width, **kwargs),
      jax.nn.relu,
    ]
    for has_norm in (config.normed, False, False):
      layers += [
        *(Block(config, normed=has_norm, rngs=rngs) for _ in range(3)),
        upsample,
        conv(width, width, use_bias=False, **kwargs),
      ]
    layers += [
      Block(config, rngs=rngs),
      conv(width, config.image_channels, **kwargs),
    ]
    self.layers = nnx.List(layers)

  def __call__(self, z: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, 8H, 8W, 3), about [-1, 1]."""
    return 2 * _apply(self.layers, z).astype(jnp.float32) - 1


def _apply(layers: nnx.List[Layer], h: jax.Array) -> jax.Array:
  for layer in layers:
    h = layer(h)
  return h


def _soft_clip(z: jax.Array) -> jax.Array:
  """Maps latents smoothly to (-3, 3)."""
  return 3 * jnp.tanh(z / 3)
