"""Files that appear whole or not at all, even after a crash of the machine.

A file is written as .NAME.PID, flushed to the disk and renamed to NAME. A
command that is killed leaves .NAME.PID behind; the next command that holds the
lock of NAME removes it (`core.folder_lock`).
"""

import contextlib
import errno
import fnmatch
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from core.errors import WriteError

_PARTIAL = re.compile(r'\.(.+)\.\d+', re.DOTALL)
_LONGEST = 200  # characters of NAME in a partial name; file systems allow 255
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def partial_path(path: Any) -> Any:
  """Returns the name under which this process first writes a file or folder."""
  return path.with_name(f'.{path.name[:_LONGEST]}.{os.getpid()}')


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[Any]:
  """Yields a name to write under, which becomes `path` or vanishes.

  Args:
    path: File in a folder that exists; an older file is replaced.

  Raises:
    WriteError: if the file cannot be written.
  """
  partial = partial_path(path)
  try:
    yield partial
    sync(partial)
    partial.replace(path)
    sync(path.parent)
  except OSError as error:
    raise write_error(path, error) from error
  finally:
    with contextlib.suppress(OSError):  # such as in a folder that was removed
      partial.unlink(missing_ok=True)


def sync(path: os.PathLike) -> None:
  """Flushes a local file, or the names in a local folder, to the disk."""
  if '://' in os.fspath(path):  # object stores keep what they accept
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
  """Removes the partial files that killed commands left behind.

  Args:
    folder: Folder of the files.
    names: Patterns of the files' names, such as '*.npz' or 'parts/*.npz'.
  """
  for pattern in names:
    inside, _, name = pattern.rpartition('/')
    place = folder / inside if inside else folder
    if not place.is_dir():
      continue
    for path in place.iterdir():
      match = _PARTIAL.fullmatch(path.name)
      if not match or not fnmatch.fnmatchcase(match[1], name[:_LONGEST]):
        continue
      if path.is_dir():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)


def is_full(error: OSError) -> bool:
  """Returns whether an error says that the disk, or a quota, is full."""
  return error.errno in _FULL


def write_error(path: os.PathLike, error: OSError) -> WriteError:
  """Returns the error for a file that could not be written."""
  todo = 'make room' if is_full(error) else 'check the folder'
  return WriteError(
    f'{os.fspath(path)} could not be written ({error.strerror or error}); '
    f'{todo}, and run the same command again. Finished files are kept.'
  )
