"""Reads local or remote files of published weights into numpy arrays.

  .safetensors                           needs no other library
  .pt .pth .ckpt                         needs torch
  hf://org/name/path/in/repo[@revision]  any type above; needs huggingface_hub
  https://host/path                      any type above; stored in a cache

A .pt file is a dictionary of tensors, or has such a dictionary at `state_dict`.
Training checkpoints have two dictionaries: `ema`, and `model` (raw weights).

Files are untrusted. Pickles are read with torch's weights_only, which runs no
code from the file. Weights that are not tensors are rejected.
"""

import argparse
import hashlib
import os
import pathlib
import re
import shutil
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from safetensors import SafetensorError, safe_open

from core.errors import InputError, check_choice, reason
from core.files import is_full, replacing
from core.folder_lock import file_lock
from dit.weights.finite import check_finite

Tensors = dict[str, np.ndarray]

HUB, WEB = 'hf://', 'https://'
PICKLES = ('.pt', '.pth', '.ckpt')
SUFFIXES = ('.safetensors', *PICKLES)
WEIGHTS = {'ema': 'ema', 'raw': 'model'}  # set name: key in the file
AS_STORED = 'as stored'  # name of the set in a file without named sets
# Name prefixes from DistributedDataParallel and torch.compile.
_WRAPPERS = re.compile(r'^((module|_orig_mod)\.)+')


def read_tensors(
  source: epath.PathLike,
  *,
  weights: str = 'ema',
  allow_nonfinite: bool = False,
) -> tuple[Tensors, str]:
  """Reads one published file.

  Args:
    source: File; see `fetch`.
    weights: Name of the set to read from a checkpoint, 'ema' or 'raw'.
    allow_nonfinite: Whether to accept values that are not finite.

  Returns:
    Tensors by name, with floating-point values as float32, and the name of the
    set: 'ema', 'raw', or 'as stored' if the file has no named sets.

  Raises:
    InputError: if the file or a required library is missing; if the file is
      damaged, has an unknown suffix, or lacks the requested set; or if weights
      are not tensors or not finite in float32.
  """
  check_choice('weights', weights, WEIGHTS)
  path = fetch(source)
  suffix = path.suffix
  if suffix == '.safetensors':
    tensors, set_name = read_safetensors(path), AS_STORED
  else:
    tensors, set_name = _read_pickle(path, weights)
  arrays = {
    _WRAPPERS.sub('', key): _as_float32(value) for key, value in tensors.items()
  }
  if len(arrays) < len(tensors):
    raise InputError(
      f'{source} has tensors whose names differ by a prefix only, module. or '
      '_orig_mod.; it is not clear which to read.'
    )
  check_finite(
    source,
    arrays,
    advice='download the file again, take one that was saved before training '
    'diverged, or convert it with --allow_nonfinite to study it',
    allow=allow_nonfinite,
  )
  return arrays, set_name


def fetch(source: epath.PathLike) -> pathlib.Path:
  """Returns the local path of a weights file; downloads a remote file.

  `source` is a local file, hf://org/name/path/in/repo[@revision], or https://.

  Raises:
    InputError: if the file is missing or of an unknown kind.
  """
  name, revision = os.fspath(source), ''
  if name.startswith(HUB):
    name, _, revision = name.partition('@')
  if pathlib.PurePath(name).suffix not in SUFFIXES:
    raise InputError(
      f'{source} is not a supported file of weights; expected '
      f'{", ".join(SUFFIXES)}.'
    )
  if name.startswith(HUB):
    path = _download(name, revision)
  elif name.startswith(WEB):
    path = _download_url(name)
  else:
    path = local(name)
  if not os.path.isfile(path):
    raise InputError(f'{source} is not there, or is not a file.')
  return path


def read_safetensors(path: pathlib.Path) -> Tensors:
  """Returns all arrays of a local file; raises InputError if damaged."""
  tensors, name = {}, ''
  try:
    with safe_open(path, 'numpy') as file:
      for name in file.keys():
        tensors[name] = file.get_tensor(name)
  except (SafetensorError, OSError) as error:
    raise _read_error(path, error) from error
  except AttributeError as error:  # numpy lacks the data type
    raise InputError(
      f'{path} has {name!r}, of a type that cannot be read ({reason(error)}); '
      'expected float32, float16 or bfloat16.'
    ) from error
  return tensors


def header_of(path: epath.PathLike) -> dict[str, str]:
  """Returns the header of a .safetensors file; {} for other files."""
  if pathlib.PurePath(path).suffix != '.safetensors':
    return {}
  try:
    with safe_open(path, 'numpy') as file:
      return file.metadata() or {}
  except (SafetensorError, OSError) as error:
    raise _read_error(pathlib.Path(path), error) from error


def local(path: epath.PathLike) -> pathlib.Path:
  """Returns a local path; raises InputError for a remote path."""
  name = os.fspath(path)
  if name.startswith(HUB):
    raise InputError(
      f'{path} is not on this machine, and this argument reads local folders '
      'only; download it, or, to create a folder from a published file, run '
      f'python main.py convert --from={HUB}org/name/file --to=FOLDER.'
    )
  if '://' in name:
    raise InputError(
      f'{path} is not on this machine, and weights are read and written '
      'locally; copy it here, and give the copy.'
    )
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise InputError(f'{path}: {error}') from error


def _as_float32(tensor: np.ndarray) -> np.ndarray:
  # numpy does not recognize bfloat16 as floating point.
  is_float = jnp.issubdtype(tensor.dtype, jnp.floating)
  with np.errstate(over='ignore'):  # `check_finite` reports infinity
    return tensor.astype(np.float32, copy=False) if is_float else tensor


def _download(name: str, revision: str) -> pathlib.Path:
  match = re.fullmatch(rf'{HUB}([^/]+/[^/]+)/(.+)', name)
  if not match:
    raise InputError(
      f'{name} names no file; expected {HUB}org/name/path/in/repo[@revision].'
    )
  hub = _import_hub(name)
  try:
    return pathlib.Path(
      hub.hf_hub_download(*match.groups(), revision=revision or None)
    )
  except Exception as error:  # an error of the network, the Hub or the disk
    raise InputError(
      f'{name} cannot be downloaded ({reason(error)}).'
    ) from error


def fetch_folder(place: epath.PathLike) -> str:
  """Returns the path of a folder of weights; downloads it from the Hub.

  `place` is hf://org/name[/path/in/repo][@revision], or any other path, which
  is returned as it is.

  Raises:
    InputError: if the address is invalid, or the folder cannot be downloaded.
  """
  name = os.fspath(place)
  if not name.startswith(HUB):
    return name
  match = re.fullmatch(rf'{HUB}([^/@]+/[^/@]+)(?:/([^@]*))?(?:@(.+))?', name)
  if not match:
    raise InputError(
      f'{name} names no folder; expected {HUB}org/name[/path][@revision].'
    )
  repository, inside, revision = match.groups()
  inside = (inside or '').strip('/')
  prefix = f'{inside}/' if inside else ''
  hub = _import_hub(name)
  try:
    root = hub.snapshot_download(
      repository,
      revision=revision,
      allow_patterns=[f'{prefix}config.json', f'{prefix}model.safetensors'],
    )
  except Exception as error:  # an error of the network, the Hub or the disk
    raise InputError(
      f'{name} cannot be downloaded ({reason(error)}).'
    ) from error
  folder = pathlib.Path(root) / inside
  if not (folder / 'config.json').is_file():
    raise InputError(
      f'{name} is no folder of weights: it has no config.json. If it has a '
      f'published file, run python main.py convert --from={name}/FILE '
      '--to=FOLDER.'
    )
  return str(folder)


def _import_hub(name: str) -> Any:
  """Returns the module huggingface_hub; raises InputError if it is missing."""
  try:
    import huggingface_hub
  except ImportError as error:
    raise InputError(
      f'{name} needs huggingface_hub: pip install huggingface_hub (or -r '
      'requirements-hub.txt), or download the file yourself.'
    ) from error
  return huggingface_hub


def _download_url(url: str) -> pathlib.Path:
  digest = hashlib.sha256(url.encode()).hexdigest()[:16]
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = pathlib.Path(cache).expanduser() / 'dit_weights' / digest
  path = folder / pathlib.PurePath(url).name
  if path.is_file():
    return path
  logging.info('Downloading %s to %s.', url, folder)
  with (
    file_lock(path, 'download', instead='name a file on this machine'),
    replacing(path) as temp_path,
    temp_path.open('wb') as file,
  ):
    try:
      with urllib.request.urlopen(url, timeout=60) as response:
        shutil.copyfileobj(response, file)
        expected = response.headers.get('Content-Length')
      if expected and file.tell() != int(expected):
        raise OSError('the connection broke')
    except OSError as error:
      if is_full(error):
        raise
      raise InputError(
        f'{url} cannot be downloaded ({reason(error)}).'
      ) from error
  return path


def _read_pickle(path: pathlib.Path, weights: str) -> tuple[Tensors, str]:
  """Returns the tensors of a torch.save file, and the name of their set."""
  try:
    import torch
  except ImportError as error:
    raise InputError(
      f'reading {path} needs torch: pip install torch (or -r '
      'requirements-torch.txt), or give a .safetensors file.'
    ) from error
  try:
    with (
      # The published IG-SiT file stores its training arguments in a Namespace.
      torch.serialization.safe_globals([argparse.Namespace]),
      warnings.catch_warnings(action='ignore'),
    ):
      content = torch.load(
        path,
        map_location='cpu',
        weights_only=True,
        # Files with optimizer states reach 10 GB; mmap reads only what is used.
        mmap=zipfile.is_zipfile(path),
      )
  except Exception as error:  # torch raises many types of errors
    raise _read_error(path, error) from error
  selection, set_name = _choose(path, content, weights)
  tensors = {}
  for name, value in selection.items():
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
      raise InputError(
        f'{path} has {name!r} of type {type(value).__name__} among its weights '
        f'({set_name}), expected tensors only.'
      )
    try:
      # With strides of 0, a tensor of a few stored bytes can claim terabytes.
      if value.numel() * value.itemsize > value.untyped_storage().nbytes():
        raise ValueError('it is larger than its data in the file')
      is_float = value.is_floating_point()
      value = value.detach().to(torch.float32 if is_float else value.dtype)
      tensors[name] = value.numpy()
    except Exception as error:  # for example, for a sparse or quantized tensor
      raise InputError(
        f'{path} has {name!r}, which is not a plain array ({reason(error)}).'
      ) from error
  return tensors, set_name


def _choose(
  path: pathlib.Path, content: Any, weights: str
) -> tuple[Mapping[str, Any], str]:
  """Returns the requested set of weights in a file, and the set's name."""
  if not isinstance(content, Mapping):
    raise InputError(
      f'{path} holds a {type(content).__name__}, expected a dictionary.'
    )
  sets = {
    name: content[key]
    for name, key in WEIGHTS.items()
    if isinstance(content.get(key), Mapping)
  }
  if weights in sets:
    return sets[weights], weights
  if sets:
    (entry,) = sets
    raise InputError(
      f'{path} holds no {weights} weights, only {entry}; use --weights={entry}.'
    )
  if isinstance(content.get('state_dict'), Mapping):
    return content['state_dict'], AS_STORED
  return content, AS_STORED


def _read_error(path: pathlib.Path, error: Exception) -> InputError:
  match = re.search(r'GLOBAL (\S+)', str(error))
  if match:
    return InputError(
      f'{path} is refused: it asks for {match[1]}, but code that a file of '
      'weights names is never run; expected tensors only.'
    )
  return InputError(
    f'{path} cannot be read ({reason(error)}); it is damaged, truncated, or '
    f'not a {path.suffix} file.'
  )
