"""The published autoencoders and their latent statistics.

  name               downsampling  channels   std of latents     mean
  sd_vae             8             4          1 / 0.18215        0
  va_vae             16            32         from a statistics file
  taesd, taesdxl     8             4          1                  0
  taesd3, taef1      8             16         1                  0
  taef2              8             32         1                  0

The network's space is (z - mean) / std; see `dit.latents.Normalization`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from core.errors import InputError, check_choice
from dit.autoencoder.base import Autoencoder
from dit.autoencoder.names import kl_from_published, tiny_from_published
from dit.latents import Normalization

_IDENTITY = Normalization()


@dataclasses.dataclass(frozen=True)
class Published:
  """A published autoencoder.

  Attributes:
    read: Function from tensors to configuration and parameters.
    downsampling: Ratio of the image's side to the latent's side.
    latent_channels: Channels C of the latent.
    normalization: Latent statistics; None if they are in a separate file.
  """

  read: Callable[..., tuple[Any, dict[str, Any]]]
  downsampling: int
  latent_channels: int
  normalization: Normalization | None = _IDENTITY


AUTOENCODERS = {
  'sd_vae': Published(
    kl_from_published, 8, 4, Normalization(std=(1 / 0.18215,))
  ),
  'va_vae': Published(kl_from_published, 16, 32, None),
  'taesd': Published(tiny_from_published, 8, 4),
  'taesdxl': Published(tiny_from_published, 8, 4),
  'taesd3': Published(tiny_from_published, 8, 16),
  'taef1': Published(tiny_from_published, 8, 16),
  'taef2': Published(tiny_from_published, 8, 32),
}
NAMES = ('pixels', *AUTOENCODERS)  # for 'pixels', latents are images


def load(
  name: str,
  *files: Mapping[str, np.ndarray],
  statistics: Mapping[str, np.ndarray] | None = None,
  **options: Any,
) -> Autoencoder:
  """Builds a published autoencoder with numpy arrays as parameters.

  Args:
    name: One of AUTOENCODERS.
    *files: Tensors by published name, one dictionary for each file.
    statistics: `mean` and `std` of the latents, required if the autoencoder has
      no default statistics.
    **options: Arguments of the reader: dtype, and norm_groups (KL only).

  Raises:
    InputError: if the name is unknown or the tensors do not match it.
  """
  check_choice('autoencoder', name, AUTOENCODERS)
  entry = AUTOENCODERS[name]
  if not files:
    raise InputError(
      f'autoencoder {name!r} got 0 files of weights; it has one or two.'
    )
  config, params = entry.read(*files, **options)
  expected = entry.downsampling, entry.latent_channels
  if (config.downsampling, config.latent_channels) != expected:
    raise InputError(
      f'these weights downsample by {config.downsampling} to '
      f'{config.latent_channels} channels, but {name!r} by {expected[0]} to '
      f'{expected[1]}; give its weights, or the name of these.'
    )
  normalization = entry.normalization
  if statistics is not None:
    normalization = Normalization.from_tensors(statistics)
  if normalization is None:
    raise InputError(
      f'autoencoder {name!r} needs its latent statistics, the published '
      'latents_stats file; without them images come out wrong.'
    )
  if len(normalization.mean) not in (1, config.latent_channels):
    raise InputError(
      f'latent statistics have {len(normalization.mean)} channels, but '
      f'{name!r} has {config.latent_channels}; give the statistics of its '
      'latents.'
    )
  return Autoencoder(params, config, normalization)
