"""Autoencoders named by text, and checks that one decodes a network's latents.

The text is NAME:PLACE, a name of `dit.autoencoder.AUTOENCODERS` and its files
(local, hf:// or https://), separated by commas, or the folder that holds them.
`prepare` and `train` note the text and the hash of the decoder beside the data
and in the run, so that every later command finds it without being told.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from dit.weights.folder.files import PICKLES, SUFFIXES, local, read_tensors
from jax.sharding import Mesh

from core.errors import InputError, check_choice
from core.ranges import WebText, check_value
from dit import autoencoder, model
from dit.autoencoder import AUTOENCODERS, Autoencoder
from dit.latents import Normalisation
from dit.sharding import replicated

FLAG = '--autoencoder'


def read_autoencoder(
  text: str | None, mesh: Mesh, half: str
) -> Autoencoder | None:
  """Reads an autoencoder.

  Args:
    text: 'NAME:FILE[,FILE...]' or 'NAME:FOLDER', a file of latent statistics
      among the files; None, or 'pixels', where latents are images.
    mesh: devices for the weights, each of which holds all of them.
    half: the half that is needed, 'encoder' or 'decoder'.

  Raises:
    InputError: if the files are not those of the name, or lack the half.
  """
  if text in (None, 'pixels'):
    return None
  check_value('autoencoder', text, WebText)
  name, _, place = text.partition(':')
  check_choice('autoencoder', name, AUTOENCODERS)
  files, folder = _files(name, place)
  try:
    tensors = [read_tensors(file)[0] for file in files]
    statistics = [t for t in tensors if t.keys() == {'mean', 'std'}]
    rest = [t for t in tensors if t.keys() != {'mean', 'std'}]
    loaded = autoencoder.load(
      name, *rest, statistics=statistics[0] if statistics else None
    )
    if half not in loaded.params:
      raise InputError(f'autoencoder {text} has no {half}; add its file.')
  except InputError as error:
    if folder is None:
      raise
    raise InputError(
      f'folder {folder} does not hold autoencoder {name}: {error} It holds '
      f'{_listed(folder)}; name the files, as {FLAG}={name}:FILE[,FILE].'
    ) from error
  return jax.device_put(loaded, replicated(mesh))


def remembered(
  text: str | None, loaded: Autoencoder | None
) -> dict[str, str] | None:
  """Returns what data and runs remember of the decoder of their latents.

  Args:
    text: the text that the user gave.
    loaded: the autoencoder that was read from it.

  Returns:
    Its name and place, absolute, and the hash of its decoder; None without one.
  """
  if text is None or loaded is None or 'decoder' not in loaded.params:
    return None
  name, _, place = text.partition(':')
  places = ','.join(
    word if '://' in word else str(local(word).absolute())
    for word in _split(place)
  )
  return {
    'autoencoder': f'{name}:{places}',
    'sha256': model.fingerprint(loaded.params['decoder']),
  }


def place_of(text: str | None, latents: Mapping[str, Any]) -> str | None:
  """Returns the text that the user gave, or the one that a run remembers."""
  known = latents.get('decoder')
  if text is None and isinstance(known, dict):
    return str(known.get('autoencoder', ''))
  return text


def read_decoder(
  text: str | None, channels: int, latents: Mapping[str, Any], mesh: Mesh
) -> Autoencoder | None:
  """Reads the autoencoder that decodes the network's latents.

  Args:
    text: the text that the user gave, as `read_autoencoder` takes it; None for
      what the run or folder remembers.
    channels: channels of the network's latents.
    latents: record of the data in the run or folder; see `about_latents`.
    mesh: devices for the weights.

  Returns:
    The autoencoder, with the normalization that the network was trained with;
    None where latents are images.

  Raises:
    InputError: if its latents are not the network's, or one is needed.
  """
  known = latents.get('decoder') if text is None else None
  if known:
    text, decoder = _recall(known, mesh)
  else:
    decoder = read_autoencoder(text, mesh, 'decoder')
  trained_on = latents.get('autoencoder')
  expected = trained_on['name'] if trained_on else None
  check_decoder(decoder, channels, expected)
  if text is None or decoder is None or not trained_on:
    return decoder
  name = text.partition(':')[0]
  if name != expected:
    raise InputError(
      f'autoencoder is {name}, but the network was trained on latents of '
      f'{expected}.'
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


def _recall(
  known: Mapping[str, str], mesh: Mesh
) -> tuple[str, Autoencoder | None]:
  """Reads the autoencoder that a run remembers; it must be the same one."""
  try:
    text, expected = known['autoencoder'], known.get('sha256')
    name = text.partition(':')[0]
  except (KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f'what the run says of its autoencoder is damaged; give {FLAG}=NAME:FILE.'
    ) from error
  try:
    decoder = read_autoencoder(text, mesh, 'decoder')
  except InputError as error:
    raise InputError(
      f'the autoencoder that was given before, {text}, cannot be read: {error} '
      f'Say where it is now: {FLAG}={name}:FILE[,FILE].'
    ) from error
  digest = model.fingerprint(decoder.params['decoder']) if decoder else None
  if expected and digest != expected:
    raise InputError(
      f'the decoder in {text} is not the one that was given before: its '
      f'SHA-256 is {str(digest)[:12]}..., expected {expected[:12]}...; give '
      f'the one to use: {FLAG}={name}:FILE[,FILE].'
    )
  return text, decoder


def check_decoder(
  decoder: Autoencoder | None, channels: int, name: str | None = None
) -> None:
  """Raises InputError unless it makes images of latents of `channels`."""
  coded = channels not in (1, 3) or name not in (None, 'pixels')
  if decoder is None and coded:
    raise InputError(
      f'the network makes latents of {channels} channels, no images; say what '
      f'decodes them: {FLAG}={name or "NAME"}:FILE[,FILE], such as '
      f'{FLAG}=sd_vae:vae.safetensors.'
    )
  if decoder is not None and decoder.latent_channels != channels:
    raise InputError(
      f'the autoencoder has {decoder.latent_channels} latent channels, the '
      f'network {channels}; choose the one that it was trained on.'
    )


def _split(place: str) -> list[str]:
  """Returns the files that a text names, or the one with commas in its name."""
  if place and '://' not in place and local(place).exists():
    return [place]
  return [word for word in place.split(',') if word]


def _files(name: str, place: str) -> tuple[list[str], pathlib.Path | None]:
  """Returns the files of an autoencoder, and the folder that they lie in.

  A folder's files are those called NAME.* or NAME_*, or all if there are none;
  .safetensors files come before pickles.
  """
  words = _split(place)
  if len(words) != 1 or '://' in words[0] or not local(words[0]).is_dir():
    return words, None
  folder = local(words[0])
  try:
    paths = [p for p in sorted(folder.iterdir()) if p.suffix in SUFFIXES]
  except OSError as error:
    raise InputError(
      f'folder {folder} of autoencoder {name} cannot be read '
      f'({error.strerror or error}).'
    ) from error
  mine = [p for p in paths if p.name.startswith((f'{name}.', f'{name}_'))]
  chosen = mine or paths
  safe = [p for p in chosen if p.suffix not in PICKLES]
  return [str(path) for path in safe or chosen], folder


def _listed(folder: pathlib.Path) -> str:
  """Returns the names in a folder, shortened."""
  names = sorted(path.name for path in folder.iterdir())
  return ', '.join(names[:10]) + ', ...' * (len(names) > 10) or 'nothing'
