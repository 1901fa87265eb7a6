"""Conversions between images and latents, in both directions.

  pixels      x = image / 127.5 - 1       image = round(127.5 (x + 1)), clipped
  posterior   z = mean + std * noise,     std = exp(log_variance / 2)
  network     x0 = (z - mean) / std       z = x0 * std + mean

Images are uint8 in [0, 255] and x is float32 in [-1, 1]. z is the latent of an
autoencoder, and x0 is the network's training data. In the row `network`, mean
and std are constants of the data set, one for each channel (`Normalization`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError
from core.renamed_keys import upgrade_latents


def from_pixels(image: jax.Array) -> jax.Array:
  """(B, H, W, C) uint8 -> float32 in [-1, 1]."""
  return image.astype(jnp.float32) / 127.5 - 1


def to_pixels(x: jax.Array, *, truncate: bool = False) -> jax.Array:
  """Converts images (B, H, W, C) in [-1, 1] to uint8; clips values outside.

  `truncate` rounds down, as in the code of REPA and of Internal Guidance's SiT.
  Images are then half a level darker on average. The code of DiT, SiT and
  LightningDiT uses trunc(127.5 x + 128), which rounds to nearest.
  """
  rounding = jnp.floor if truncate else jnp.round
  return jnp.clip(rounding((x + 1) * 127.5), 0, 255).astype(jnp.uint8)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
  """The output of an encoder: a Gaussian with independent entries.

  Attributes:
    mean: (B, H, W, C) float32.
    std: (B, H, W, C) float32; zero if the encoder is deterministic.
  """

  mean: jax.Array
  std: jax.Array

  @classmethod
  def from_moments(cls, moments: jax.Array) -> 'Posterior':
    """Converts an encoder's mean and log-variance, (B, H, W, 2C)."""
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return cls(mean, jnp.exp(0.5 * jnp.clip(log_variance, -30, 20)))

  @classmethod
  def from_stored(cls, stored: jax.Array) -> 'Posterior':
    """Inverts `stored`."""
    return cls(*jnp.split(stored, 2, axis=-1))

  def stored(self) -> jax.Array:
    """Returns mean and std, (B, H, W, 2C), as stored in latent data sets."""
    return jnp.concatenate([self.mean, self.std], axis=-1)

  def draw(self, noise: jax.Array) -> jax.Array:
    """Returns latents z, (B, H, W, C); `noise` is standard normal."""
    return self.mean + self.std * noise


@dataclasses.dataclass(frozen=True)
class Normalization:
  """Latent statistics that map an autoencoder's space to the network's space.

  Attributes:
    mean: Mean of each channel, or one mean for all channels.
    std: Standard deviation of each channel, or one for all channels.
  """

  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)

  def __post_init__(self) -> None:
    if not np.isfinite(self.mean).all():
      raise InputError(f'latent mean is {self.mean}, expected finite numbers.')
    if not (np.isfinite(self.std) & (np.asarray(self.std) > 0)).all():
      raise InputError(f'latent std is {self.std}, expected positive numbers.')

  @classmethod
  def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> 'Normalization':
    """Reads a file's `mean` and `std`, each (1, C, 1, 1) or (C,)."""
    for name in ('mean', 'std'):
      if name not in tensors:
        raise InputError(
          f'latent statistics have no tensor {name!r}, only '
          f'{", ".join(sorted(tensors)[:5])}; give the file of mean and std.'
        )
    mean, std = (
      np.asarray(tensors[name], np.float32) for name in ('mean', 'std')
    )
    if mean.shape != std.shape or max(mean.shape, default=1) != mean.size:
      raise InputError(
        f'latent statistics have shapes {mean.shape} and {std.shape}, '
        'expected one number for each channel.'
      )
    return cls(tuple(mean.ravel().tolist()), tuple(std.ravel().tolist()))

  def normalize(self, z: jax.Array) -> jax.Array:
    """Maps autoencoder latents (B, H, W, C) to network latents, in float32."""
    mean, std = (jnp.asarray(s, jnp.float32) for s in (self.mean, self.std))
    return (z.astype(jnp.float32) - mean) / std

  def denormalize(self, x: jax.Array) -> jax.Array:
    """Maps network latents (B, H, W, C) to autoencoder latents, in float32."""
    mean, std = (jnp.asarray(s, jnp.float32) for s in (self.mean, self.std))
    return x.astype(jnp.float32) * std + mean


@dataclasses.dataclass(frozen=True)
class DecoderPlace:
  """The location and hash of a decoder of latents.

  Attributes:
    text: Name and absolute paths, in the format of `dit.autoencoder.files`;
      '' if the stored text is damaged.
    sha256: Hash of the decoder's weights; None in files of older versions.
  """

  text: str
  sha256: str | None = None

  def to_json(self) -> dict[str, str]:
    """Returns plain values for JSON."""
    digest = {} if self.sha256 is None else {'sha256': self.sha256}
    return {'autoencoder': self.text, **digest}

  @classmethod
  def from_json(cls, stored: Any) -> 'DecoderPlace | None':
    """Reads the output of `to_json`; returns None if nothing is known."""
    if not stored:
      return None
    values = stored if isinstance(stored, dict) else {}
    text, digest = (values.get(key) for key in ('autoencoder', 'sha256'))
    return cls(
      text if isinstance(text, str) else '',
      digest if isinstance(digest, str) else None,
    )


@dataclasses.dataclass(frozen=True)
class LatentSpace:
  """The latent space of a network, stored with its data and weights.

  Attributes:
    autoencoder: Name of the autoencoder, 'pixels' for images; None if unknown.
    encoder_sha256: Hash of the encoder that made the latents.
    normalization: Statistics that map latents to the network's space.
    decoder: Location of the decoder; None if unknown.
    classes: Class names in the order of the labels; () if unknown.
  """

  autoencoder: str | None = None
  encoder_sha256: str | None = None
  normalization: Normalization = Normalization()
  decoder: DecoderPlace | None = None
  classes: tuple[str, ...] = ()

  def to_json(self) -> dict[str, Any]:
    """Returns plain values for JSON; {} if nothing is known."""
    if self == LatentSpace():
      return {}
    decoder = self.decoder.to_json() if self.decoder else None
    if self.autoencoder is None:
      return {'decoder': decoder, 'classes': list(self.classes)}
    return {
      'autoencoder': {
        'name': self.autoencoder,
        'encoder_sha256': self.encoder_sha256,
      },
      'decoder': decoder,
      'normalization': {
        'mean': list(self.normalization.mean),
        'std': list(self.normalization.std),
      },
      'classes': list(self.classes),
    }

  @classmethod
  def from_json(cls, stored: Any) -> 'LatentSpace':
    """Reads the output of `to_json`; files of older versions may lack keys.

    Raises:
      InputError: if the values are damaged.
    """
    if not isinstance(stored, dict):
      return cls()
    stored = upgrade_latents(stored)
    classes = stored.get('classes')
    space = cls(
      decoder=DecoderPlace.from_json(stored.get('decoder')),
      classes=tuple(map(str, classes)) if isinstance(classes, list) else (),
    )
    autoencoder = stored.get('autoencoder')
    if not autoencoder:
      return space
    try:
      mean, std = (tuple(stored['normalization'][k]) for k in ('mean', 'std'))
      return dataclasses.replace(
        space,
        autoencoder=autoencoder['name'],
        encoder_sha256=autoencoder.get('encoder_sha256'),
        normalization=Normalization(mean, std),
      )
    except (AttributeError, KeyError, TypeError) as error:
      raise InputError(
        'the description of the latents is damaged '
        f'({type(error).__name__}: {error}); copy the run or folder again.'
      ) from error
