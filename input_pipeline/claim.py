"""The claim on a folder of records: one protocol, one command at a time."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from core.errors import InputError
from core.files import read_json, write_json
from core.folder_lock import folder_lock
from core.nested import flatten
from input_pipeline.records import METADATA, PROTOCOL

LOCK = 'records'
# Files in the folder.
WRITES = (PROTOCOL, METADATA, '*-of-*.array_record', '*-of-*.json')
_FREE = ('images',)  # of the protocol: a set may be moved


@contextlib.contextmanager
def claimed(folder: pathlib.Path, protocol: dict[str, Any]) -> Iterator[None]:
  """Claims a folder for the records of a protocol, within the block.

  Args:
    folder: Folder of the split; it is created.
    protocol: Settings that fix the records, as plain values.

  Raises:
    InputError: if it holds other files or another protocol, is in use, is
      damaged, or cannot be written.
    WriteError: if the disk is full.
  """
  path = folder / PROTOCOL
  with folder_lock(
    folder, LOCK, 'prepare', instead='choose another data.name', writes=WRITES
  ):
    try:
      if not path.exists():
        if {found.name for found in folder.iterdir()} - {f'.{LOCK}.lock'}:
          raise InputError(
            f'{folder} holds files that prepare did not write; choose another '
            'data.name.'
          )
        write_json(path, protocol)
      found = read_json(path, f'; delete the folder {folder}')
      _check(folder, found, protocol)
    except OSError as error:
      raise InputError(
        f'{folder} cannot be written ({error.strerror or error}); set data.dir.'
      ) from error
    yield


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
