"""The KL autoencoder of latent diffusion: SD-VAE (f8) and VA-VAE (f16).

  residual   h <- shortcut(h) + conv2(silu(norm2(conv1(silu(norm1(h))))))
  attention  h <- h + proj_out(softmax(q k^T / sqrt(D)) v), with q, k and v from
             norm(h), and one head over all H W pixels
  level i    residual blocks at resolution 1 / 2^i, attention after each block
             if i is in `attention_levels`, then up- or downsampling by 2
  middle     residual, attention, residual
  encoder    conv_in, levels 0..n-1, middle, norm, silu, conv_out, quant_conv
  decoder    post_quant_conv, conv_in, middle, levels n-1..0, norm, silu,
             conv_out

Sources: Rombach et al. 2022, appendix G; Yao et al. 2025 for VA-VAE. Modules
have the names of the original code, so parameters have the published paths.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from core.errors import InputError
from dit.autoencoder.base import AutoencoderConfig
from dit.autoencoder.layers import conv, group_norm, upsample

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLConfig(AutoencoderConfig):
  """Shape of a KL autoencoder.

  Attributes:
    widths: Channels of each level, starting at the image's resolution.
    layers: Residual blocks per encoder level; decoder levels have one more.
    attention_levels: Levels with attention. In the original code, this is the
      level where a 256 x 256 image is 16 x 16. Other image sizes use it too.
    norm_groups: Number of groups in each norm.
  """

  widths: tuple[int, ...]
  layers: int = 2
  attention_levels: tuple[int, ...] = ()
  norm_groups: int = 32
  deterministic: ClassVar[bool] = False

  def __post_init__(self) -> None:
    super().__post_init__()
    for width in self.widths:
      if self.norm_groups < 1 or width % self.norm_groups:
        raise InputError(
          f'norm_groups {self.norm_groups} does not divide the width {width} '
          'of the autoencoder; give the number that it was trained with.'
        )

  @property
  def downsampling(self) -> int:
    """Ratio of the image's side to the latent's side."""
    return 2 ** (len(self.widths) - 1)

  def network(self, half: str, rngs: nnx.Rngs) -> nnx.Module:  # noqa: D102
    return {'encoder': Encoder, 'decoder': Decoder}[half](self, rngs=rngs)


class Residual(nnx.Module):
  """Two convolutions and a shortcut (1 x 1 convolution if widths differ)."""

  def __init__(
    self, inputs: int, outputs: int, config: KLConfig, *, rngs: nnx.Rngs
  ) -> None:
    self.norm1 = _norm(inputs, config, rngs)
    self.conv1 = _conv(inputs, outputs, config, rngs)
    self.norm2 = _norm(outputs, config, rngs)
    self.conv2 = _conv(outputs, outputs, config, rngs)
    self.nin_shortcut = (
      _conv(inputs, outputs, config, rngs, side=1)
      if inputs != outputs
      else None
    )

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, H, W, inputs) -> (B, H, W, outputs)."""
    shortcut = h if self.nin_shortcut is None else self.nin_shortcut(h)
    h = self.conv1(jax.nn.silu(self.norm1(h)))
    return shortcut + self.conv2(jax.nn.silu(self.norm2(h)))


class Attention(nnx.Module):
  """Self-attention over pixels with one head of width D."""

  def __init__(self, width: int, config: KLConfig, *, rngs: nnx.Rngs) -> None:
    self.norm = _norm(width, config, rngs)
    self.q, self.k, self.v, self.proj_out = (
      _conv(width, width, config, rngs, side=1) for _ in range(4)
    )

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, H, W, D) -> (B, H, W, D); the softmax is float32."""
    b, _, _, d = h.shape
    inputs = self.norm(h)
    q, k, v = (
      proj(inputs).reshape(b, -1, d) for proj in (self.q, self.k, self.v)
    )
    logits = jnp.einsum('bnd,bmd->bnm', q, k, preferred_element_type='float32')
    weights = jax.nn.softmax(logits * d**-0.5).astype(v.dtype)
    out = jnp.einsum('bnm,bmd->bnd', weights, v)
    return h + self.proj_out(out.reshape(h.shape))


class Downsample(nnx.Module):
  """A convolution of stride 2, padded at the bottom and right only."""

  def __init__(self, width: int, config: KLConfig, *, rngs: nnx.Rngs) -> None:
    self.conv = _conv(
      width, width, config, rngs, strides=2, padding=((0, 1), (0, 1))
    )

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, 2H, 2W, D) -> (B, H, W, D)."""
    return self.conv(h)


class Upsample(nnx.Module):
  """Nearest-neighbor upsampling by 2, then a convolution."""

  def __init__(self, width: int, config: KLConfig, *, rngs: nnx.Rngs) -> None:
    self.conv = _conv(width, width, config, rngs)

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, H, W, D) -> (B, 2H, 2W, D)."""
    return self.conv(upsample(h))


class Level(nnx.Module):
  """Blocks at one resolution, then downsampling, upsampling or nothing."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    layers: int,
    config: KLConfig,
    *,
    attention: bool,
    downsample: bool = False,
    upsample: bool = False,
    rngs: nnx.Rngs,
  ) -> None:
    self.block = nnx.List(
      Residual(outputs if j else inputs, outputs, config, rngs=rngs)
      for j in range(layers)
    )
    self.attn = nnx.List(
      Attention(outputs, config, rngs=rngs)
      for _ in range(layers if attention else 0)
    )
    self.downsample = (
      Downsample(outputs, config, rngs=rngs) if downsample else None
    )
    self.upsample = Upsample(outputs, config, rngs=rngs) if upsample else None

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, H, W, inputs) -> (B, H', W', outputs)."""
    for j, block in enumerate(self.block):
      h = block(h)
      if self.attn:
        h = self.attn[j](h)
    for step in (self.downsample, self.upsample):
      h = h if step is None else step(h)
    return h


class Middle(nnx.Module):
  """Blocks at the lowest resolution."""

  def __init__(self, width: int, config: KLConfig, *, rngs: nnx.Rngs) -> None:
    self.block_1 = Residual(width, width, config, rngs=rngs)
    self.attn_1 = Attention(width, config, rngs=rngs)
    self.block_2 = Residual(width, width, config, rngs=rngs)

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, H, W, D) -> (B, H, W, D)."""
    return self.block_2(self.attn_1(self.block_1(h)))


class Encoder(nnx.Module):
  """Maps images to the mean and log-variance of their latents."""

  def __init__(self, config: KLConfig, *, rngs: nnx.Rngs) -> None:
    widths = config.widths
    first, last = widths[0], widths[-1]
    self.conv_in = _conv(config.image_channels, first, config, rngs)
    self.down = nnx.List(
      Level(
        inputs,
        widths[i],
        config.layers,
        config,
        attention=i in config.attention_levels,
        downsample=i < len(widths) - 1,
        rngs=rngs,
      )
      for i, inputs in enumerate((first, *widths[:-1]))
    )
    self.mid = Middle(last, config, rngs=rngs)
    moments = 2 * config.latent_channels
    self.norm_out = _norm(last, config, rngs)
    self.conv_out = _conv(last, moments, config, rngs)
    self.quant_conv = _conv(moments, moments, config, rngs, side=1)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(B, f H, f W, 3) in [-1, 1] -> mean, log-variance (B, H, W, 2C)."""
    h = self.conv_in(x)
    for level in self.down:
      h = level(h)
    h = jax.nn.silu(self.norm_out(self.mid(h)))
    return self.quant_conv(self.conv_out(h))


class Decoder(nnx.Module):
  """Maps latents to images; the levels in `up` run in reverse order."""

  def __init__(self, config: KLConfig, *, rngs: nnx.Rngs) -> None:
    widths = config.widths
    first, last = widths[0], widths[-1]
    latent = config.latent_channels
    self.post_quant_conv = _conv(latent, latent, config, rngs, side=1)
    self.conv_in = _conv(latent, last, config, rngs)
    self.mid = Middle(last, config, rngs=rngs)
    self.up = nnx.List(
      Level(
        inputs,
        widths[i],
        config.layers + 1,
        config,
        attention=i in config.attention_levels,
        upsample=i > 0,
        rngs=rngs,
      )
      for i, inputs in enumerate((*widths[1:], last))
    )
    self.norm_out = _norm(first, config, rngs)
    self.conv_out = _conv(first, config.image_channels, config, rngs)

  def __call__(self, z: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, f H, f W, 3), about [-1, 1]."""
    h = self.mid(self.conv_in(self.post_quant_conv(z)))
    for level in reversed(self.up):
      h = level(h)
    return self.conv_out(jax.nn.silu(self.norm_out(h)))


def _norm(width: int, config: KLConfig, rngs: nnx.Rngs) -> nnx.GroupNorm:
  return group_norm(
    width,
    config.norm_groups,
    _EPSILON,
    dtype=config.activation_dtype,
    rngs=rngs,
  )


def _conv(
  inputs: int, outputs: int, config: KLConfig, rngs: nnx.Rngs, **kwargs: Any
) -> nnx.Conv:
  dtype = config.activation_dtype
  return conv(inputs, outputs, dtype=dtype, rngs=rngs, **kwargs)
