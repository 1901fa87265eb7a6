"""Where finished images go, so that a killed command can go on.

A folder of results:

  samples.json      the protocol, and whether all is done
  samples.png       the first images
  samples.npz       arr_0 (n, H, W, C) uint8 and arr_1 (n,) labels, as the ADM
                    evaluator reads it                             (format npz)
  parts/            finished batches, until samples.npz is there   (format npz)
  images/000000.png and so on, and labels.txt                      (format png)

Every file appears whole or not at all, and what is there counts as done: a
restarted command draws what is missing. Image i belongs to its number, not to
its batch, so batch size and devices may change in between.
"""

import concurrent.futures
import fcntl
import functools
import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from dit.errors import InputError, RunError, check_choice
from dit.json_files import read_json
from sample import writer

FORMATS = ('npz', 'png')
_PREVIEW = 100
_THREADS = 8
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
# What this module makes, and so may replace; nothing else is touched.
_FILES = ('samples.npz', 'samples.png', 'labels.txt')
_INSIDE = {'parts': r'\d{8}\.npz', 'images': r'\d{6,}\.png'}
_PARTIAL = r'\.(samples\.(json|npz|png)|labels\.txt|\d{6,}\.(npz|png))\.\d+'


class WriteError(RunError):
  """Images could not be written."""


class Store:
  """The images of one protocol in one folder; for one process only."""

  def __init__(
    self,
    folder: epath.PathLike,
    protocol: dict[str, Any],
    labels: np.ndarray,
    *,
    form: str = 'npz',
    overwrite: bool = False,
  ) -> None:
    """Opens a folder, new or continued.

    Args:
      folder: local or gs://.
      protocol: what fixes the images, as plain values.
      labels: (n,) int, of all images.
      form: one of FORMATS.
      overwrite: discards images of another protocol.

    Raises:
      InputError: if the folder cannot be written, is in use, or holds what is
        not ours or of another protocol.
    """
    check_choice('--format', form, FORMATS)
    self.folder = writer.results_folder(folder)
    self._protocol = json.loads(json.dumps({**protocol, 'format': form}))
    self._labels = labels
    self._form = form
    self._inside = self.folder / ('parts' if form == 'npz' else 'images')
    self._pending: list[concurrent.futures.Future] = []
    self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS)
    self._lock = _lock(self.folder)
    try:
      self.complete = self._open(overwrite)
    except BaseException:
      self.close()
      raise

  def missing(self) -> np.ndarray:
    """Numbers of the images that are not there yet, rising."""
    done = np.zeros(len(self._labels), bool)
    if self.complete:
      done[:] = True
    elif self._form == 'png':
      done[[int(path.stem) for path in self._files()]] = True
    else:
      for path in self._files():
        try:
          done[_load(path, 'index')] = True
        except _DAMAGED as error:
          logging.warning('%s is damaged, and drawn again: %s', path, error)
          path.unlink()
    return np.flatnonzero(~done)

  def add(self, index: np.ndarray, images: np.ndarray) -> None:
    """Writes images (n, H, W, C) uint8; may return before they are there.

    Raises:
      WriteError: if the write before failed.
    """
    self._wait()
    if self._form == 'npz':
      data = io.BytesIO()
      np.savez(data, index=index, images=images)
      path = self._inside / f'{index[0]:08}.npz'
      self._pending = [
        self._threads.submit(writer.write_bytes, path, data.getvalue())
      ]
    else:
      self._pending = [
        self._threads.submit(writer.write_png, self._png(i), image)
        for i, image in zip(index.tolist(), images, strict=True)
      ]

  def finish(self, about: dict[str, Any]) -> None:
    """Puts everything together, once nothing is missing.

    Args:
      about: what else samples.json says.
    """
    self._wait()
    count = len(self._labels)
    first = [self._read(i) for i in range(min(count, _PREVIEW))]
    preview = writer.tile(
      np.stack(first), min(count, 10), scale=max(1, 40 // first[0].shape[0])
    )
    writer.write_png(self.folder / 'samples.png', preview)
    if self._form == 'npz':
      self._write_npz(first[0].shape)
    else:
      text = '\n'.join(map(str, self._labels.tolist())) + '\n'
      writer.write_bytes(self.folder / 'labels.txt', text.encode())
    self._write_protocol(about, complete=True)
    self.complete = True
    if self._form == 'npz':
      self._discard(_INSIDE['parts'], self._inside, rmdir=True)

  def close(self) -> None:
    """Waits for writes, and lets other commands in."""
    self._wait()
    self._threads.shutdown()
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  def _open(self, overwrite: bool) -> bool:
    """Readies the folder; whether all images are there."""
    found = self._read_protocol()
    differences = _differences(found, self._protocol)
    if found is not None and differences and not overwrite:
      raise InputError(
        f'{self.folder} holds images of another protocol '
        f'({"; ".join(differences)}); choose another --out, or discard them '
        'with --overwrite.'
      )
    if found is not None:
      self._discard(_PARTIAL, self.folder)
      for name in _INSIDE:
        self._discard(_PARTIAL, self.folder / name)
    complete = (
      found is not None
      and not differences
      and found['complete']
      and self._is_whole()
    )
    if found is not None and differences:
      self._discard('|'.join(map(re.escape, _FILES)), self.folder)
      for name, pattern in _INSIDE.items():
        self._discard(pattern, self.folder / name, rmdir=True)
    if complete:
      self._discard(_INSIDE['parts'], self.folder / 'parts', rmdir=True)
    else:
      self._write_protocol({}, complete=False)
    return complete

  def _wait(self) -> None:
    jobs, self._pending = self._pending, []
    try:
      for job in jobs:
        job.result()
    except OSError as error:
      raise WriteError(
        f'{self.folder} could not be written: {error}. What is there is whole; '
        'make room, and start the same command again.'
      ) from error

  def _png(self, i: int) -> epath.Path:
    return self._inside / f'{i:06}.png'

  def _read(self, i: int) -> np.ndarray:
    """Image i, (H, W, C)."""
    if self._form == 'npz':
      path, row = self._places[i]
      return self._part(path)[row]
    with Image.open(io.BytesIO(self._png(i).read_bytes())) as image:
      pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]

  @functools.cached_property
  def _places(self) -> dict[int, tuple[epath.Path, int]]:
    """The part, and the row in it, of every image."""
    return {
      i: (path, row)
      for path in self._files()
      for row, i in enumerate(_load(path, 'index').tolist())
    }

  @functools.lru_cache(maxsize=2)  # noqa: B019 - a store lives as its command
  def _part(self, path: epath.Path) -> np.ndarray:
    return _load(path, 'images')

  def _write_npz(self, shape: Sequence[int]) -> None:
    """Streams the parts, in the order of the images, into samples.npz."""
    path = self.folder / 'samples.npz'
    partial = path.parent / f'.{path.name}.{os.getpid()}'
    header = {
      'descr': '|u1',
      'fortran_order': False,
      'shape': (len(self._labels), *shape),
    }
    with partial.open('wb') as file, zipfile.ZipFile(file, 'w') as archive:
      with archive.open('arr_0.npy', 'w', force_zip64=True) as array:
        np.lib.format.write_array_header_1_0(array, header)
        for i in range(len(self._labels)):
          array.write(self._read(i).tobytes())
      with archive.open('arr_1.npy', 'w') as array:
        np.lib.format.write_array(array, self._labels)
    partial.replace(path)

  def _files(self) -> list[epath.Path]:
    """The parts, or the images of this set, in order."""
    pattern = _INSIDE[self._inside.name]
    paths = sorted(_matching(self._inside, pattern))
    if self._form == 'png':
      return [path for path in paths if int(path.stem) < len(self._labels)]
    return paths

  def _is_whole(self) -> bool:
    """Whether the results of a finished command are still there."""
    if self._form == 'npz':
      return (self.folder / 'samples.npz').exists()
    return len(self._files()) == len(self._labels)

  def _read_protocol(self) -> dict[str, Any] | None:
    """samples.json; None in a folder that holds nothing of its name or ours."""
    path = self.folder / 'samples.json'
    if not path.exists():
      taken = [
        name for name in (*_FILES, *_INSIDE) if (self.folder / name).exists()
      ]
      if taken:
        raise InputError(
          f'{self.folder} holds {" and ".join(taken)}, but no samples.json '
          'says of what; choose another --out.'
        )
      return None
    try:
      found = read_json(path)
    except InputError:
      found = {}
    if not isinstance(found.get('complete'), bool):
      raise InputError(
        f'{path} was not written by this command, or is damaged; choose '
        'another --out.'
      )
    return found

  def _write_protocol(self, about: dict[str, Any], *, complete: bool) -> None:
    writer.write_json(
      self.folder / 'samples.json',
      {**self._protocol, **about, 'complete': complete},
    )

  def _discard(
    self, pattern: str, folder: epath.Path, *, rmdir: bool = False
  ) -> None:
    """Removes files of ours from a folder, and then it if it is empty."""
    for path in _matching(folder, pattern):
      path.unlink()
    if rmdir and folder.exists() and not any(folder.iterdir()):
      folder.rmdir()


def _matching(folder: epath.Path, pattern: str) -> list[epath.Path]:
  """Files whose whole name matches."""
  if not folder.is_dir():
    return []
  return [p for p in folder.iterdir() if re.fullmatch(pattern, p.name)]


def _lock(folder: epath.Path) -> int | None:
  """Keeps other commands out of a local folder until it is closed."""
  if '://' in str(folder):  # object stores have no locks
    return None
  lock = os.open(folder / '.lock', os.O_WRONLY | os.O_CREAT)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    os.close(lock)
    raise InputError(
      f'another command is drawing into {folder}; wait for it, or choose '
      'another --out.'
    ) from error
  return lock


def _load(path: epath.Path, name: str) -> np.ndarray:
  with path.open('rb') as file, np.load(file) as arrays:
    return arrays[name]


def _differences(
  found: dict[str, Any] | None, protocol: dict[str, Any]
) -> list[str]:
  """What `protocol` has otherwise than `found`, as 'key: old -> new'."""
  found, protocol = writer.identity(found or {}), writer.identity(protocol)
  return [
    f'{key}: {_short(found.get(key, "absent"))} -> {_short(value)}'
    for key, value in protocol.items()
    if found.get(key, 'absent') != value
  ]


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else f'{text[:57]}...'
