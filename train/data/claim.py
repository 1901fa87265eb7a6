"""Whose a folder of records is: of one protocol, and of one command at a time.

Both are told by protocol.json: by what it says, and by a lock on it, which the
kernel gives back however the command ends.
"""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator
from typing import Any

from absl import logging

from dit.errors import InputError
from dit.json_files import read_json
from dit.nested import flatten
from sample import writer
from train.data.records import PROTOCOL

_FREE = ('images',)  # of the protocol: a set may be moved


@contextlib.contextmanager
def claimed(folder: pathlib.Path, protocol: dict[str, Any]) -> Iterator[None]:
  """Makes the folder that of the protocol, and locks it within the block.

  Raises:
    InputError: if it is another's, in use, damaged, or cannot be written.
  """
  path = folder / PROTOCOL
  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      if not path.exists():
        if any(folder.iterdir()):
          raise InputError(
            f'{folder} holds files that prepare did not write; choose another '
            'data.name.'
          )
        writer.write_json(path, protocol)
      file = stack.enter_context(path.open('r+'))
      _lock(file)
      found = read_json(path, f'; delete the folder {folder}')
      _check(folder, found, protocol)
    except OSError as error:
      raise InputError(
        f'{folder} cannot be written ({error.strerror or error}); set data.dir.'
      ) from error
    yield


def _lock(file: Any) -> None:
  """Takes the lock that is given back when the file is closed."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise InputError(
      f'another prepare is writing to {pathlib.Path(file.name).parent}; wait '
      'for its end, or choose another data.name.'
    ) from error
  except OSError as error:  # a file system without locks
    logging.warning('%s cannot be locked: %s.', file.name, error)


def _check(
  folder: pathlib.Path, found: dict[str, Any], wanted: dict[str, Any]
) -> None:
  """Raises InputError where the protocols differ."""
  found, wanted = flatten(found), flatten(wanted)
  differences = [
    f'{key}: {str(found.get(key))[:60]} -> {str(wanted.get(key))[:60]}'
    for key in sorted(found.keys() | wanted.keys())
    if found.get(key) != wanted.get(key) and key not in _FREE
  ]
  if differences:
    raise InputError(
      f'{folder} holds records of another protocol '
      f'({"; ".join(differences)}); choose another data.name, or delete '
      'the folder.'
    )
