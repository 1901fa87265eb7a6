"""Autoencoders by text, and whether one makes images of a network's latents."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from dit import autoencoder, model
from dit.autoencoder import Autoencoder
from dit.errors import InputError, check_choice
from dit.latents import Normalisation
from dit.published import read_tensors
from dit.ranges import PathText, check_value
from dit.sharding import replicated


def read_autoencoder(
  text: str | None, mesh: Mesh, half: str
) -> Autoencoder | None:
  """Reads an autoencoder.

  Args:
    text: 'NAME:FILE[,FILE...]', a name of `autoencoder.AUTOENCODERS` and its
      published files, a file of latent statistics among them; None, or
      'pixels', where latents are images.
    mesh: where to put the weights, whole on every device.
    half: that is needed, 'encoder' or 'decoder'.

  Raises:
    InputError: if the files are not those of the name, or lack the half.
  """
  if text in (None, 'pixels'):
    return None
  check_value('autoencoder', text, PathText)
  name, _, files = text.partition(':')
  check_choice('autoencoder', name, autoencoder.AUTOENCODERS)
  tensors = [read_tensors(file)[0] for file in filter(None, files.split(','))]
  statistics = [t for t in tensors if t.keys() == {'mean', 'std'}]
  rest = [t for t in tensors if t.keys() != {'mean', 'std'}]
  loaded = autoencoder.load(
    name, *rest, statistics=statistics[0] if statistics else None
  )
  if half not in loaded.params:
    raise InputError(f'autoencoder {text} has no {half}; add its file.')
  return jax.device_put(loaded, replicated(mesh))


def read_decoder(
  text: str | None, channels: int, latents: dict[str, Any], mesh: Mesh
) -> Autoencoder | None:
  """Reads what makes images of the network's latents.

  Args:
    text: as `read_autoencoder` takes it.
    channels: of the network's latents.
    latents: what the run or folder knows of its latents; see `Source.latents`.
    mesh: where to put the weights.

  Returns:
    The autoencoder, with the normalisation that the network was trained with;
    None where latents are images.

  Raises:
    InputError: if its latents are not the network's, or one is needed.
  """
  decoder = read_autoencoder(text, mesh, 'decoder')
  check_decoder(decoder, channels)
  if text is None or decoder is None or not latents:
    return decoder
  trained_on = latents['autoencoder']
  name = text.partition(':')[0]
  if name != trained_on['name']:
    raise InputError(
      f'autoencoder is {name}, but the network was trained on latents of '
      f'{trained_on["name"]}.'
    )
  encoder = decoder.params.get('encoder')
  if encoder and model.fingerprint(encoder) != trained_on['encoder_sha256']:
    raise InputError(
      f'the encoder in {text} is not that of the latents that the network was '
      'trained on; give the file that they were prepared with.'
    )
  normalisation = Normalisation(
    *(tuple(latents['normalisation'][name]) for name in ('mean', 'std'))
  )
  return dataclasses.replace(decoder, normalisation=normalisation)


def check_decoder(decoder: Autoencoder | None, channels: int) -> None:
  """Raises InputError unless it makes images of latents of `channels`."""
  if decoder is None and channels not in (1, 3):
    raise InputError(
      f'the network makes latents of {channels} channels, no images; say what '
      'decodes them, such as --autoencoder=sd_vae:vae.safetensors.'
    )
  if decoder is not None and decoder.latent_channels != channels:
    raise InputError(
      f'the autoencoder has {decoder.latent_channels} latent channels, the '
      f'network {channels}; choose the one that it was trained on.'
    )
