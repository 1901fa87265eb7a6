"""Writes shards, which are files of records, atomically.

Each shard has a description in a JSON file. This file is written last, so a
shard with both files is complete. All shards of a folder have the same
protocol. A lock prevents two commands from writing the same folder.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from core.errors import InputError, PrepareError
from core.files import file_sha256, partial_path, read_json, sync, write_json
from core.folder_lock import folder_lock
from core.nested import flatten
from input_pipeline.records import (
  METADATA,
  PROTOCOL,
  Layout,
  Metadata,
  Shard,
  from_json,
)

# One record per group allows fast random access. Larger groups would save no
# space, because latents are incompressible.
WRITER_OPTIONS = 'group_size:1,uncompressed'
LOCK = 'records'
# Files that `prepare` writes in the folder of a split.
WRITES = (PROTOCOL, METADATA, '*-of-*.array_record', '*-of-*.json')
_FREE = ('images',)  # key that may differ, since image folders can be moved


@contextlib.contextmanager
def claimed(folder: pathlib.Path, protocol: dict[str, Any]) -> Iterator[None]:
  """Locks a folder for records of a protocol; creates the folder if needed.

  Raises:
    InputError: if the folder has other files or another protocol, is in use, is
      damaged, or cannot be written.
    WriteError: if the disk is full.
  """
  path = folder / PROTOCOL
  with folder_lock(
    folder, LOCK, 'prepare', instead='choose another data.name', writes=WRITES
  ):
    try:
      if not path.exists():
        if {path.name for path in folder.iterdir()} - {f'.{LOCK}.lock'}:
          raise InputError(
            f'{folder} holds files that prepare did not write; choose another '
            'data.name.'
          )
        write_json(path, protocol)
      metadata = read_json(path, f'; delete the folder {folder}')
      _check_protocol(folder, metadata, protocol)
    except OSError as error:
      raise InputError(
        f'{folder} cannot be written ({error.strerror or error}); set data.dir.'
      ) from error
    yield


def _check_protocol(
  folder: pathlib.Path, old: dict[str, Any], new: dict[str, Any]
) -> None:
  old, new = flatten(old), flatten(new)
  differences = [
    f'{key}: {str(old.get(key))[:60]} -> {str(new.get(key))[:60]}'
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and key not in _FREE
  ]
  if differences:
    raise InputError(
      f'{folder} holds records of another protocol '
      f'({"; ".join(differences)}); choose another data.name, or delete '
      'the folder.'
    )


class ShardWriter:
  """A context manager that writes a shard and deletes it after an error."""

  def __init__(
    self, path: pathlib.Path, layout: Layout, num_classes: int
  ) -> None:
    self.records = 0
    self.broken: list[str] = []
    self._path, self._layout = path, layout
    self._counts = np.zeros(num_classes, int)
    self._sums = np.zeros((2, layout.latent_shape[-1]))
    self._partial = partial_path(path)

  def __enter__(self) -> 'ShardWriter':
    self._writer = ArrayRecordWriter(str(self._partial), WRITER_OPTIONS)
    return self

  def write(self, labels: np.ndarray, arrays: np.ndarray) -> None:
    """Writes records of labels (n,) and arrays (n, ...).

    Raises:
      InputError: A label is not a class.
      PrepareError: Arrays are not finite, or the disk is full.
    """
    bad = labels[(labels < 0) | (labels >= len(self._counts))]
    if bad.size:
      raise InputError(
        f'an image of {self._path.name} has the label {bad[0]}, expected 0 to '
        f'{len(self._counts) - 1}; correct the labels of the images.'
      )
    rows = arrays[:, 0].astype(np.float64)
    if self._layout.content == 'pixels':
      mean, std = rows / 127.5 - 1, np.zeros(1)
    else:
      mean, std = np.split(rows, 2, axis=-1)
    if not np.isfinite(rows).all():
      raise PrepareError(
        f'latents of {self._path.name} are not finite; is it the right file of '
        'autoencoder weights? --dtype=float32 holds larger numbers.'
      )
    self._sums[0] += mean.mean((1, 2)).sum(0)
    self._sums[1] += (mean**2 + np.square(std)).mean((1, 2)).sum(0)
    np.add.at(self._counts, labels, 1)
    self.records += len(labels)
    data = map(self._layout.pack, labels, arrays)
    try:
      for record in data:
        self._writer.write(record)
    except (OSError, RuntimeError) as error:
      raise self._failure(error) from error

  def __exit__(self, kind: type | None, *error: Any) -> None:
    try:
      self._writer.close()
      if kind is None:
        self._finish()
    except (OSError, RuntimeError, ValueError) as failure:
      raise self._failure(failure) from failure
    finally:
      self._partial.unlink(missing_ok=True)

  def _failure(self, error: Exception) -> PrepareError:
    return PrepareError(
      f'{self._path} cannot be written ({error}); make room, and run the same '
      'command again.'
    )

  def _finish(self) -> None:
    sync(self._partial)
    mean, square = self._sums / max(self.records, 1)
    shard = Shard(
      file=self._path.name,
      records=self.records,
      nbytes=self._partial.stat().st_size,
      sha256=file_sha256(self._partial),
      counts=tuple(self._counts.tolist()),
      broken=tuple(self.broken),
      mean=tuple(mean.tolist()),
      square=tuple(square.tolist()),
    )
    self._partial.replace(self._path)
    sync(self._path.parent)
    write_json(
      self._path.with_suffix('.json'), dataclasses.asdict(shard), every=True
    )


def finished(path: pathlib.Path) -> Shard | None:
  """Returns the description of a shard, or None if the shard is incomplete."""
  description = path.with_suffix('.json')
  if not (description.exists() and path.exists()):
    return None
  try:
    shard = from_json(Shard, read_json(description))
  except (InputError, TypeError):  # a damaged shard is written again
    return None
  return shard if path.stat().st_size == shard.nbytes else None


def check_shards(folder: epath.PathLike) -> Sequence[str]:
  """Verifies all shards; returns one line for each problem."""
  metadata, problems = Metadata.load(folder), []
  for shard in metadata.shards:
    path = pathlib.Path(folder) / shard.file
    if not path.is_file():
      problems.append(f'{path} is missing.')
    elif file_sha256(path) != shard.sha256:
      problems.append(f'{path} is not what was written: its checksum differs.')
    else:
      problems += _check_records(path, shard, metadata)
  return problems


def _check_records(
  path: pathlib.Path, shard: Shard, metadata: Metadata
) -> Sequence[str]:
  """Returns the problems of a shard's records, one line each."""
  try:
    source = grain.sources.ArrayRecordDataSource([str(path)])
    records = len(source)
  except RuntimeError as error:
    return [f'{path} is damaged: {error}.']
  if records != shard.records:
    return [f'{path} has {records} records, expected {shard.records}.']
  counts = np.zeros(len(metadata.classes), int)
  for i in range(records):
    try:
      record = metadata.unpack(source[i])
    except (ValueError, RuntimeError) as error:
      return [f'{path}: record {i} is damaged: {error}.']
    counts[record['label']] += 1
    if not np.isfinite(record[metadata.layout.content]).all():
      return [f'{path}: record {i} is not finite.']
  if counts.tolist() != list(shard.counts):
    return [f'{path}: the counts of its classes differ.']
  return []
