"""Reads the autoencoder that a text like 'sd_vae:vae.safetensors' names.

A specification is NAME:FILE[,FILE...] or NAME:FOLDER. The names are in
`dit.autoencoder.AUTOENCODERS`. Files are local, hf:// or https://.
"""

import pathlib

import jax
from jax.sharding import Mesh

from core.errors import InputError, check_choice
from core.ranges import WebText, check_value
from dit.autoencoder.base import Autoencoder
from dit.autoencoder.registry import NAMES, load
from dit.sharding import replicated
from dit.weights.files import PICKLES, SUFFIXES, local, read_tensors

FLAG = '--autoencoder'


def read_autoencoder(
  text: str | None, mesh: Mesh, half: str
) -> Autoencoder | None:
  """Reads an autoencoder onto every device of a mesh.

  Returns None if `text` is None or 'pixels', since latents are then images. The
  files can include latent statistics, and must include `half` (encoder or
  decoder).

  Raises:
    InputError: if the files do not match the name or lack the required half.
  """
  if text in (None, 'pixels'):
    return None
  check_value('autoencoder', text, WebText)
  name, _, source = text.partition(':')
  check_choice('autoencoder', name, NAMES)
  files, folder = _files(name, source)
  try:
    tensors = [read_tensors(file)[0] for file in files]
    statistics = [t for t in tensors if t.keys() == {'mean', 'std'}]
    rest = [t for t in tensors if t.keys() != {'mean', 'std'}]
    result = load(name, *rest, statistics=statistics[0] if statistics else None)
    if half not in result.params:
      raise InputError(f'autoencoder {text} has no {half}; add its file.')
  except InputError as error:
    if folder is None:
      raise
    raise InputError(
      f'folder {folder} does not hold autoencoder {name}: {error} It holds '
      f'{_list_files(folder)}; name the files, as {FLAG}={name}:FILE[,FILE].'
    ) from error
  return jax.device_put(result, replicated(mesh))


def split_places(place: str) -> list[str]:
  """Splits a text at commas, unless the whole text is an existing path."""
  if place and '://' not in place and local(place).exists():
    return [place]
  return [word for word in place.split(',') if word]


def _files(name: str, source: str) -> tuple[list[str], pathlib.Path | None]:
  """Returns an autoencoder's files; also the folder, if `source` is a folder.

  In a folder, files NAME.* and NAME_* take precedence over other files, and
  .safetensors files take precedence over pickles.
  """
  words = split_places(source)
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
  matches = [p for p in paths if p.name.startswith((f'{name}.', f'{name}_'))]
  candidates = matches or paths
  tensors = [p for p in candidates if p.suffix not in PICKLES]
  return [str(path) for path in tensors or candidates], folder


def _list_files(folder: pathlib.Path) -> str:
  names = sorted(path.name for path in folder.iterdir())
  return ', '.join(names[:10]) + ', ...' * (len(names) > 10) or 'nothing'
