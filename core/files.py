"""Atomic writes, and a reader of possibly damaged JSON.

A file is written as .NAME.PID, flushed to disk and renamed to NAME. A killed
command leaves .NAME.PID. The next command that locks NAME removes .NAME.PID.
"""

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from core.errors import InputError, WriteError

_PARTIAL = re.compile(r'\.(.+)\.\d+', re.DOTALL)
_LONGEST = 200  # characters of NAME in .NAME.PID; file systems allow 255
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
# Recursive functions on deeper JSON could exhaust Python's stack.
_MOST_LEVELS = 50


def partial_path(path: Any) -> Any:
  """Returns the temporary path that this process writes to and then renames."""
  return path.with_name(f'.{path.name[:_LONGEST]}.{os.getpid()}')


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[Any]:
  """Yields a temporary path; renames it to `path`, or removes it on failure.

  The folder of `path` must exist. An existing file is replaced.

  Raises:
    WriteError: if the file cannot be written.
  """
  temp_path = partial_path(path)
  try:
    yield temp_path
    sync(temp_path)
    temp_path.replace(path)
    sync(path.parent)
  except OSError as error:
    raise write_error(path, error) from error
  finally:
    with contextlib.suppress(OSError):  # the folder may have been removed
      temp_path.unlink(missing_ok=True)


def sync(path: os.PathLike) -> None:
  """Flushes a local file, or the entries of a local folder, to disk."""
  if '://' in os.fspath(path):  # writes to object stores are durable
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:  # some file systems cannot flush folders
    if error.errno not in _NO_SYNC:
      raise
  finally:
    os.close(descriptor)


def remove_leftovers(folder: epath.Path, names: Sequence[str]) -> None:
  """Removes partial files that killed commands left in `folder`.

  `names` are patterns of the final names, such as '*.npz' or 'parts/*.npz'.
  """
  for pattern in names:
    subfolder, _, name = pattern.rpartition('/')
    parent = folder / subfolder if subfolder else folder
    if not parent.is_dir():
      continue
    for path in parent.iterdir():
      match = _PARTIAL.fullmatch(path.name)
      if not match or not fnmatch.fnmatchcase(match[1], name[:_LONGEST]):
        continue
      if path.is_dir():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)


def is_full(error: OSError) -> bool:
  """Returns whether the error means a full disk or an exhausted quota."""
  return error.errno in _FULL


def write_error(path: os.PathLike, error: OSError) -> WriteError:
  """Returns the error for a file that could not be written."""
  todo = 'make room' if is_full(error) else 'check the folder'
  return WriteError(
    f'{os.fspath(path)} could not be written ({error.strerror or error}); '
    f'{todo}, and run the same command again. Finished files are kept.'
  )


def write_bytes(
  path: epath.PathLike, data: bytes, *, every: bool = False
) -> None:
  """Writes `data` atomically to a file in an existing folder.

  By default, only the first process writes. With `every`, all processes write.

  Raises:
    WriteError: if the file cannot be written.
  """
  if jax.process_index() != 0 and not every:
    return
  with replacing(epath.Path(path)) as temp_path:
    temp_path.write_bytes(data)


def write_json(
  path: epath.PathLike, value: Any, *, every: bool = False
) -> None:
  """Writes indented JSON; see `write_bytes`."""
  data = (json.dumps(value, indent=2) + '\n').encode()
  write_bytes(path, data, every=every)


def read_json(path: epath.PathLike, advice: str = '') -> dict[str, Any]:
  """Reads a JSON object from a local or gs:// file.

  `advice` is the end of error messages, such as '; train again'.

  Raises:
    InputError: if the file cannot be read or does not hold a JSON object.
  """
  path = epath.Path(path)
  try:
    value = parse_json(path.read_bytes())
  except OSError as error:
    raise InputError(
      f'{path} cannot be read ({error.strerror or error}){advice}.'
    ) from error
  except ValueError as error:
    raise InputError(f'{path} is damaged ({error}){advice}.') from error
  if not isinstance(value, dict):
    raise InputError(f'{path} is damaged (it is not a JSON object){advice}.')
  return value


def file_sha256(path: os.PathLike) -> str:
  """Returns the SHA-256 of a local file in hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def parse_json(text: str | bytes) -> Any:
  """Parses JSON; integers of more than 20 characters become floats.

  Raises:
    ValueError: if the JSON is invalid or nested too deeply.
  """
  try:
    value = json.loads(text, parse_int=_integer)
  except RecursionError as error:
    raise ValueError('nested too deeply') from error
  level = [value]
  for _ in range(_MOST_LEVELS):
    level = [child for parent in level for child in _children(parent)]
  if level:
    raise ValueError('nested too deeply')
  return value


def _integer(text: str) -> int | float:
  """Returns a float for a long integer, since `int` rejects too many digits."""
  return int(text) if len(text) <= 20 else float(text)


def _children(value: Any) -> list[Any]:
  if isinstance(value, dict):
    return list(value.values())
  return value if isinstance(value, list) else []
