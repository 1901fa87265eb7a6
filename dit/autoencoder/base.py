"""The interface of autoencoders, which map images to latents and back.

  z = encode(x).draw(noise)    x in [-1, 1], (B, f H, f W, 3) -> (B, H, W, C)
  x = decode(z)                about [-1, 1]
  x0 = normalize(z)            z = denormalize(x0)

f is the downsampling factor. x0 lies in the space of the diffusion network.
The encoder and the decoder are separate networks, and one may be absent.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from core.errors import InputError, check_choice
from dit.latents import Normalization, Posterior

Params = dict[str, Any]
HALVES = ('encoder', 'decoder')
DTYPES = ('auto', 'float32', 'bfloat16')


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(abc.ABC):
  """Settings that all kinds of autoencoders share.

  Attributes:
    latent_channels: Channels C of the latent.
    image_channels: Channels of the image.
    dtype: Type of activations; 'auto' is float32 on CPU, and bfloat16 on
      accelerators. Parameters, norm statistics and results are float32.
  """

  latent_channels: int
  image_channels: int = 3
  dtype: str = 'auto'
  deterministic: ClassVar[bool] = True  # if True, the encoder returns only z

  def __post_init__(self) -> None:
    check_choice('autoencoder dtype', self.dtype, DTYPES)

  @property
  def activation_dtype(self) -> str:
    """Type of activations, with 'auto' resolved for the default backend."""
    if self.dtype != 'auto':
      return self.dtype
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'

  @property
  @abc.abstractmethod
  def downsampling(self) -> int:
    """Ratio of the image's side to the latent's side."""

  @abc.abstractmethod
  def network(self, half: str, rngs: nnx.Rngs) -> nnx.Module:
    """Returns the encoder or the decoder with initial parameters."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder:
  """An autoencoder with parameters and latent statistics, as a pytree.

  Attributes:
    params: {'encoder': ..., 'decoder': ...}; one entry may be missing.
    config: Architecture of the encoder and decoder.
    normalization: Statistics that map latents to the diffusion network's space.
  """

  params: Params
  config: AutoencoderConfig = dataclasses.field(metadata={'static': True})
  normalization: Normalization = dataclasses.field(
    default=Normalization(), metadata={'static': True}
  )

  @property
  def downsampling(self) -> int:
    """Ratio of the image's side to the latent's side."""
    return self.config.downsampling

  @property
  def latent_channels(self) -> int:
    """Channels C of the latent."""
    return self.config.latent_channels

  def moments(self, x: jax.Array) -> jax.Array:
    """Encodes images (B, f H, f W, 3) in [-1, 1].

    Returns:
      Mean and log-variance, (B, H, W, 2C) float32. A deterministic encoder
      returns only the mean, (B, H, W, C).
    """
    config = self.config
    if x.shape[-1] != config.image_channels or any(
      side % self.downsampling for side in x.shape[1:3]
    ):
      raise ValueError(
        f'x has shape {x.shape}, expected (B, height, width, '
        f'{config.image_channels}) with sides divisible by {self.downsampling}.'
      )
    return self._run('encoder', x)

  def encode(self, x: jax.Array) -> Posterior:
    """Encodes images (B, f H, f W, 3) in [-1, 1] to posteriors (B, H, W, C)."""
    moments = self.moments(x)
    if self.config.deterministic:
      return Posterior(moments, jnp.zeros_like(moments))
    return Posterior.from_moments(moments)

  def decode(self, z: jax.Array) -> jax.Array:
    """Decodes latents (B, H, W, C) to images (B, f H, f W, 3), float32."""
    if z.shape[-1] != self.latent_channels:
      raise ValueError(
        f'z has shape {z.shape}, expected (B, H, W, {self.latent_channels}).'
      )
    return self._run('decoder', z)

  def normalize(self, z: jax.Array) -> jax.Array:
    """Maps latents (B, H, W, C) to the diffusion network's space."""
    return self.normalization.normalize(z)

  def denormalize(self, x: jax.Array) -> jax.Array:
    """Maps the diffusion network's space to latents (B, H, W, C)."""
    return self.normalization.denormalize(x)

  def _run(self, half: str, x: jax.Array) -> jax.Array:
    if half not in self.params:
      raise InputError(
        f'these autoencoder weights have no {half}; load its file too.'
      )
    graph, _ = _abstract(self.config, half)
    network = nnx.merge(graph, self.params[half])
    # Accelerators multiply float32 in lower precision by default. The setting
    # 'highest' does not affect bfloat16.
    with jax.default_matmul_precision('highest'):
      return network(x).astype(jnp.float32)


def shapes(config: AutoencoderConfig) -> Params:
  """Returns the parameters' shapes and dtypes without allocating them."""
  return {half: nnx.to_pure_dict(_abstract(config, half)[1]) for half in HALVES}


@functools.cache
def _abstract(
  config: AutoencoderConfig, half: str
) -> tuple[nnx.GraphDef, nnx.State]:
  return nnx.split(nnx.eval_shape(lambda: config.network(half, nnx.Rngs(0))))
