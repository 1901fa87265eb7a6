"""Folders of weights: a network's settings and parameters.

  README.md           model card (`sample.model_card`)
  config.json         {"format": 1, "model": settings, "weights": "ema", ...,
                       "sha256": hash of model.safetensors}
  model.safetensors   arrays by path, such as blocks/mlp/fc1/kernel

Backbones other than DiT add "backbone": FAMILY. Quantized weights
(`dit.weights.quantize`) add "quantized": {"scheme": "int8"}. Writing is atomic
and never replaces files. Reading checks the hash, names, shapes and types.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import save_file

from core.errors import InputError, nearest
from core.files import (
  file_sha256,
  is_full,
  partial_path,
  read_json,
  sync,
  write_error,
)
from core.nested import with_tuples
from core.renamed_keys import upgrade
from dit import backbone
from dit.base import NetworkConfig, Params
from dit.weights import quantize
from dit.weights.convert import flatten, unflatten
from dit.weights.files import local, read_safetensors
from dit.weights.finite import ALLOWED, check_finite

FORMAT = 1


def save_folder(
  folder: epath.PathLike,
  config: NetworkConfig,
  params: Params,
  *,
  info: Mapping[str, Any],
  scheme: str | None = None,
  allow_nonfinite: bool = False,
  files: Mapping[str, str] = {},
) -> None:
  """Writes a network's settings and parameters to a folder.

  Args:
    folder: New path, or an empty folder.
    config: Settings of the network.
    params: Nested dictionaries of arrays.
    info: Additional entries of config.json, such as 'weights' and 'source'.
    scheme: One of `quantize.SCHEMES`, or None for no quantization.
    allow_nonfinite: Whether to write values that are not finite. config.json
      then has the key `allow_nonfinite`, so `load_folder` accepts the values.
    files: Text of further files by name, such as README.md.

  Raises:
    InputError: if the folder is not empty or cannot be written, or the
      parameters do not match the network or are not finite.
    WriteError: if the disk is full.
  """
  folder = check_target(folder)
  arrays = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
  _check_arrays(folder, arrays, config)
  metadata = {'format': FORMAT, 'model': dataclasses.asdict(config), **info}
  if family := backbone.family_of(config):
    metadata['backbone'] = family
  for key in ('quantized', ALLOWED):  # `info` may have the source's keys
    metadata.pop(key, None)
  if check_finite(
    f'the weights for {folder}',
    arrays,
    advice=f'take other weights, or write them with {ALLOWED}',
    allow=allow_nonfinite,
  ):
    metadata[ALLOWED] = True
  if scheme is not None:
    arrays = quantize.quantize(arrays, scheme)
    metadata['quantized'] = {'scheme': scheme}
  with appears(folder) as temp_path:
    temp_path.mkdir()
    _write(temp_path / 'model.safetensors', arrays, {})
    metadata['sha256'] = file_sha256(temp_path / 'model.safetensors')
    text = json.dumps(metadata, indent=2) + '\n'
    for name, content in {**files, 'config.json': text}.items():
      (temp_path / name).write_text(content, encoding='utf-8')
    for path in (*temp_path.iterdir(), temp_path):
      sync(path)


def load_folder(
  folder: epath.PathLike, *, allow_nonfinite: bool = False
) -> tuple[NetworkConfig, Params, dict[str, Any]]:
  """Returns the settings, numpy parameters and `info` that `save_folder` wrote.

  Quantized parameters become float32. With `allow_nonfinite`, NaN and infinity
  are accepted even if config.json lacks this key.

  Raises:
    InputError: if the folder is invalid or the weights are not finite.
  """
  folder = local(folder)
  config, info = load_config(folder)
  path = folder / 'model.safetensors'
  if not path.is_file():
    raise InputError(
      f'{folder} is not a folder of weights: it holds no model.safetensors.'
    )
  arrays, scheme = read_safetensors(path), scheme_of(info)
  _check_arrays(path, arrays, config, scheme)
  # Folders of earlier versions have no hash and no quantized weights.
  has_sha256 = 'sha256' in info or scheme is not None
  if has_sha256 and info.pop('sha256', None) != file_sha256(path):
    raise InputError(
      f'{path} is not the file that {folder / "config.json"} was written with: '
      'its SHA-256 differs; copy or convert both again.'
    )
  if scheme is not None:
    leaves = flatten(backbone.shapes(config))
    arrays = quantize.dequantize(arrays, leaves, scheme)
  check_finite(
    path,
    arrays,
    advice='copy or convert it again, or convert its source with '
    '--allow_nonfinite to study it',
    allow=allow_nonfinite or info.get(ALLOWED) is True,
  )
  return config, unflatten(arrays), info


def scheme_of(info: Mapping[str, Any]) -> str | None:
  """Returns the scheme in a folder's `info`; None if unquantized."""
  return info['quantized']['scheme'] if 'quantized' in info else None


def save_tensors(
  path: epath.PathLike, tensors: Mapping[str, np.ndarray], **about: str
) -> None:
  """Writes tensors under their published names to a new .safetensors file.

  `about` contains the entries of the file's header.

  Raises:
    InputError: if the file exists or cannot be written.
    WriteError: if the disk is full.
  """
  with appears(check_target(path)) as temp_path:
    # PyTorch libraries require 'format' in the header.
    _write(temp_path, tensors, {'format': 'pt', **about})
    sync(temp_path)


def check_target(path: epath.PathLike) -> pathlib.Path:
  """Returns the path; raises InputError for an existing or unwritable path."""
  path = local(path).absolute()  # Path('.') has no parents
  try:
    is_taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if is_taken or path.is_symlink():
      raise _exists_error(path)
    parent = next(folder for folder in path.parents if folder.exists())
  except OSError as error:
    raise _target_error(path, error.strerror) from error
  if not parent.is_dir() or not os.access(parent, os.W_OK):
    raise _target_error(path, f'{parent} is not a writable folder')
  return path


def load_config(folder: epath.PathLike) -> tuple[NetworkConfig, dict[str, Any]]:
  """Returns the settings and `info` in a folder's config.json.

  A field that an older file lacks gets its default, which is the old behavior.

  Raises:
    InputError: if config.json is missing or damaged.
  """
  path = local(folder) / 'config.json'
  if not os.path.isfile(path):
    raise InputError(
      f'{path.parent} is not a folder of weights: it holds no config.json.'
    )
  metadata = upgrade(read_json(path))
  if metadata.pop('format', None) != FORMAT:
    raise InputError(
      f'{path} has no "format": {FORMAT}; is it a run, or of another version?'
    )
  entry = metadata.get('quantized')
  schemes = [{'scheme': scheme} for scheme in quantize.SCHEMES]
  if 'quantized' in metadata and entry not in schemes:
    raise InputError(
      f'{path} has quantized = {json.dumps(entry)[:100]}, expected one of '
      f'{", ".join(map(json.dumps, schemes))}; is it of a newer version?'
    )
  values = metadata.pop('model', None)
  if not isinstance(values, dict):
    raise InputError(f'{path} is damaged: it has no section "model".')
  family = metadata.pop('backbone', None)
  kind = backbone.config_class(family)
  if kind is None:
    raise InputError(
      f'{path} has backbone = {json.dumps(family)[:100]}, which is not in '
      'dit.backbone.BACKBONES.'
    )
  fields = {field.name: field for field in dataclasses.fields(kind)}
  for name in values:
    if name not in fields:
      raise InputError(
        f'{path} has an unknown field model.{name}; is it of a newer version?'
        + nearest(name, fields)
      )
  for name, field in fields.items():
    if name not in values and field.default is dataclasses.MISSING:
      raise InputError(f'{path} lacks the field model.{name}.')
  try:
    return kind(**with_tuples(values)), metadata
  except InputError as error:
    raise InputError(f'{path}: {error}') from error


def _check_arrays(
  source: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  config: NetworkConfig,
  scheme: str | None = None,
) -> None:
  """Raises InputError if the arrays do not match the network and the scheme."""
  # This check comes first, since `shapes` could compute huge tables.
  if config.fixed_values > sum(a.size for a in arrays.values()):
    raise InputError(
      f'{source} has fewer values than the tables of the network that its '
      f'config.json describes ({config.fixed_values:,}).'
    )
  leaves = expected = flatten(backbone.shapes(config))
  actual = quantize.scheme_of(arrays, leaves)
  if actual != scheme and (None in (actual, scheme) or actual != 'packed'):
    raise InputError(
      f'{source} holds {actual or "unquantized"} weights, but its config.json '
      f'describes {scheme or "unquantized"} ones; take both files of one '
      'folder.'
    )
  if scheme is not None:
    expected = quantize.stored(leaves, scheme)
  for problem, names in (
    ('lacks', expected.keys() - arrays.keys()),
    ('has unknown', arrays.keys() - expected.keys()),
  ):
    if names:
      raise InputError(
        f'{source} {problem} {", ".join(sorted(names)[:5])} ({len(names)} in '
        'all), by the network that its config.json describes.'
      )
  for name, leaf in expected.items():
    array = arrays[name]
    if array.shape != leaf.shape:
      raise InputError(
        f'{source} has {name} of shape {array.shape}, expected {leaf.shape}.'
      )
    # EMA weights are float32 even if the parameters have another type.
    dtypes = (leaf.dtype,) if scheme else (leaf.dtype, np.float32)
    if array.dtype not in dtypes:
      raise InputError(
        f'{source} has {name} of type {array.dtype}, expected {leaf.dtype}.'
      )


def _write(
  path: pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes a .safetensors file; raises InputError for an array of objects."""
  # safetensors ignores strides, so arrays must be contiguous.
  dense = {name: np.asarray(t, order='C') for name, t in tensors.items()}
  path.touch()
  mode = path.stat().st_mode  # set by the umask; safetensors would set 0600
  try:
    save_file(dense, path, dict(metadata) or None)
    path.chmod(mode)
  except SafetensorError as error:
    if code := re.search(r'\(os error (\d+)\)', str(error)):
      number = int(code[1])
      raise OSError(number, os.strerror(number), str(path)) from error
    raise InputError(f'these weights cannot be saved ({error}).') from error


@contextlib.contextmanager
def appears(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path; renames it to `path`, or removes it on failure."""
  temp_path = partial_path(path)
  folders = [folder for folder in path.parents if not folder.exists()]
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield temp_path
    _rename(temp_path, path)
    sync(path.parent)
  except BaseException as error:
    with contextlib.suppress(OSError):  # the name may be too long
      if temp_path.is_dir():
        shutil.rmtree(temp_path)
      else:
        temp_path.unlink(missing_ok=True)
    for folder in folders:
      with contextlib.suppress(OSError):  # the folder is missing or not empty
        folder.rmdir()
    if isinstance(error, OSError):
      if is_full(error):
        raise write_error(path, error) from error
      raise _target_error(path, error.strerror) from error
    raise


def _rename(temp_path: pathlib.Path, path: pathlib.Path) -> None:
  """Renames `temp_path` to `path`; raises InputError if `path` is a file."""
  if temp_path.is_dir():
    temp_path.rename(path)  # fails if `path` exists and is not empty
    return
  try:
    os.link(temp_path, path)
  except FileExistsError as error:
    raise _exists_error(path) from error
  except OSError:  # a file system without hard links
    temp_path.rename(path)
  else:
    temp_path.unlink()


def _exists_error(path: pathlib.Path) -> InputError:
  return InputError(f'{path} exists; choose another name, or move it away.')


def _target_error(path: pathlib.Path, msg: str | None) -> InputError:
  return InputError(f'{path} cannot be written ({msg}); choose another place.')
