"""Folders of generated images, which let an interrupted command resume.

A folder contains

  samples.json      the protocol, and whether all images are done
  samples.png       the first images
  samples.npz       arr_0 (n, H, W, C) uint8 and arr_1 (n,) labels, in the
                    format of the ADM evaluator                    (format npz)
  parts/            finished batches, until samples.npz exists     (format npz)
  images/000000.png and so on, and labels.txt                      (format png)

Files are written atomically. A resumed command samples only the missing images.
Batch size and devices may change, since image i depends only on seed and i.
"""

import concurrent.futures
import functools
import io
import json
import re
import zipfile
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from core import npz
from core.errors import InputError, WriteError, check_choice
from core.files import (
  read_json,
  write_bytes,
  write_error,
  write_json,
)
from core.nested import without_folders
from core.renamed_keys import upgrade
from sample import pictures

FORMATS = ('npz', 'png')
_PREVIEW = 100
_THREADS = 8
_NONFINITE = 'nonfinite_images'  # key in samples.json for image indices
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
# Results that this module writes, and removes before it writes new results.
_FILES = ('samples.npz', 'samples.png', 'labels.txt')
_INSIDE = {'parts': r'\d{8}\.npz', 'images': r'\d{6,}\.png'}
# Patterns of all files that this module writes, for `core.folder_lock`.
WRITES = ('samples.json', *_FILES, 'parts/[0-9]*.npz', 'images/[0-9]*.png')


class ImageFolder:
  """The images of one protocol in one folder.

  A single process uses the folder, and holds the folder's lock "samples".
  """

  def __init__(
    self,
    folder: epath.PathLike,
    protocol: dict[str, Any],
    labels: np.ndarray,
    *,
    form: str = 'npz',
    overwrite: bool = False,
  ) -> None:
    """Opens a new folder, or a folder with images of the same protocol.

    Args:
      folder: Existing folder, local or gs://.
      protocol: Settings that determine the images, as plain values.
      labels: Labels (n,) int of all images.
      form: One of FORMATS.
      overwrite: Whether to discard images of another protocol.

    Raises:
      InputError: if the folder has other files, or images of another protocol.
      WriteError: if the folder cannot be written.
    """
    check_choice('--format', form, FORMATS)
    self.folder = epath.Path(folder)
    self._protocol = json.loads(json.dumps({**protocol, 'format': form}))
    self._labels = labels
    self._form = form
    self._inside = self.folder / ('parts' if form == 'npz' else 'images')
    self._nonfinite: set[int] = set()
    self._pending: list[concurrent.futures.Future] = []
    self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS)
    self.complete = self._open(overwrite)

  def missing(self) -> np.ndarray:
    """Returns the indices of the missing images, in ascending order."""
    mask = np.zeros(len(self._labels), bool)
    if self.complete:
      mask[:] = True
    elif self._form == 'png':
      mask[[int(path.stem) for path in self._files()]] = True
    else:
      for path in self._files():
        try:
          mask[_load(path, 'index')] = True
        except _DAMAGED as error:
          logging.warning('%s is damaged; sampling it again: %s', path, error)
          path.unlink()
    return np.flatnonzero(~mask)

  @property
  def nonfinite(self) -> int:
    """Number of images with values that are not finite."""
    return len(self._nonfinite)

  def add(
    self,
    index: np.ndarray,
    images: np.ndarray,
    finite: np.ndarray | None = None,
  ) -> None:
    """Writes images in the background.

    Args:
      index: Indices (n,) int of the images.
      images: Images (n, H, W, C) uint8.
      finite: Whether all values of each image were finite, (n,) bool; None if
        all images were finite.

    Raises:
      WriteError: if the previous write failed, or this write cannot start.
    """
    self._wait()
    self._make_folder()
    past = set(self._nonfinite)
    self._nonfinite -= set(index.tolist())
    if finite is not None:
      self._nonfinite |= set(index[~finite].tolist())
    # The indices are saved before the images, in case the process is killed.
    if self._nonfinite != past:
      self._write_protocol({}, complete=False)
    if self._form == 'npz':
      data = io.BytesIO()
      np.savez(data, index=index, images=images)
      path = self._inside / f'{index[0]:08}.npz'
      self._pending = [self._threads.submit(write_bytes, path, data.getvalue())]
    else:
      self._pending = [
        self._threads.submit(pictures.write_png, self._png(i), image)
        for i, image in zip(index.tolist(), images, strict=True)
      ]

  def finish(self, about: dict[str, Any]) -> None:
    """Writes the results, and adds the entries `about` to samples.json.

    Raises:
      WriteError: if a file cannot be written, or finished images are missing.
    """
    self._wait()
    if num := len(self.missing()):
      raise WriteError(
        f'{num} finished images are no longer in {self._inside}; run the same '
        'command again to sample them.'
      )
    count = len(self._labels)
    tiles = [self._read(i) for i in range(min(count, _PREVIEW))]
    preview = pictures.tile(
      np.stack(tiles), min(count, 10), scale=max(1, 40 // tiles[0].shape[0])
    )
    pictures.write_png(self.folder / 'samples.png', preview)
    if self._form == 'npz':
      images = map(self._read, range(count))
      path = self.folder / 'samples.npz'
      npz.write_images(path, images, self._labels, tiles[0].shape)
    else:
      text = '\n'.join(map(str, self._labels.tolist())) + '\n'
      write_bytes(self.folder / 'labels.txt', text.encode())
    self._write_protocol(about, complete=True)
    self.complete = True
    if self._form == 'npz':
      self._discard(_INSIDE['parts'], self._inside, rmdir=True)

  def close(self) -> None:
    """Waits for all writes."""
    try:
      self._wait()
    finally:
      self._threads.shutdown()

  def _open(self, overwrite: bool) -> bool:
    """Prepares the folder; returns whether all images are done."""
    record, is_complete = self._read_protocol(), False
    differences = _differences(record, self._protocol)
    if record is not None and not differences:
      self._nonfinite = _numbers(record.get(_NONFINITE, ''))
      is_complete = record['complete'] and self._is_whole()
    elif record is not None:
      if not overwrite:
        raise InputError(
          f'{self.folder} holds images of another protocol '
          f'({"; ".join(differences)}); choose another --out, or discard them '
          'with --overwrite.'
        )
      self._discard('|'.join(map(re.escape, _FILES)), self.folder)
      for name, pattern in _INSIDE.items():
        self._discard(pattern, self.folder / name, rmdir=True)
    if is_complete:
      self._discard(_INSIDE['parts'], self.folder / 'parts', rmdir=True)
    else:
      self._write_protocol({}, complete=False)
    return is_complete

  def _wait(self) -> None:
    jobs, self._pending = self._pending, []
    for job in jobs:
      job.result()

  def _make_folder(self) -> None:
    try:
      self._inside.mkdir(exist_ok=True)
    except OSError as error:
      raise write_error(self._inside, error) from error

  def _png(self, i: int) -> epath.Path:
    return self._inside / f'{i:06}.png'

  def _read(self, i: int) -> np.ndarray:
    if self._form == 'npz':
      path, row = self._places[i]
      return self._part(path)[row]
    with Image.open(io.BytesIO(self._png(i).read_bytes())) as image:
      pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]

  @functools.cached_property
  def _places(self) -> dict[int, tuple[epath.Path, int]]:
    """Place of each finished image: its file in parts/ and its row there."""
    return {
      i: (path, row)
      for path in self._files()
      for row, i in enumerate(_load(path, 'index').tolist())
    }

  @functools.lru_cache(maxsize=2)  # noqa: B019 - lives until the command ends
  def _part(self, path: epath.Path) -> np.ndarray:
    return _load(path, 'images')

  def _files(self) -> list[epath.Path]:
    """Returns the files of parts or images, in order."""
    pattern = _INSIDE[self._inside.name]
    paths = sorted(_match(self._inside, pattern))
    if self._form == 'png':
      return [path for path in paths if int(path.stem) < len(self._labels)]
    return paths

  def _is_whole(self) -> bool:
    """Returns whether the results of a finished command still exist."""
    if self._form == 'npz':
      return (self.folder / 'samples.npz').exists()
    return len(self._files()) == len(self._labels)

  def _read_protocol(self) -> dict[str, Any] | None:
    """Returns samples.json; None if the folder has no files of this module."""
    path = self.folder / 'samples.json'
    if not path.exists():
      paths = [
        name for name in (*_FILES, *_INSIDE) if (self.folder / name).exists()
      ]
      if paths:
        raise InputError(
          f'{self.folder} holds {" and ".join(paths)}, but no samples.json '
          'that describes them; choose another --out.'
        )
      return None
    try:
      record = read_json(path)
    except InputError:
      record = {}
    if not isinstance(record.get('complete'), bool):
      raise InputError(
        f'{path} was not written by this command, or is damaged; choose '
        'another --out.'
      )
    return record

  def _write_protocol(self, about: dict[str, Any], *, complete: bool) -> None:
    numbers = ','.join(map(str, sorted(self._nonfinite)))
    write_json(
      self.folder / 'samples.json',
      {
        **self._protocol,
        **about,
        'nonfinite': self.nonfinite,
        _NONFINITE: numbers,
        'complete': complete,
      },
    )

  def _discard(
    self, pattern: str, folder: epath.Path, *, rmdir: bool = False
  ) -> None:
    """Removes matching files; `rmdir` also removes the folder if empty."""
    for path in _match(folder, pattern):
      path.unlink()
    if rmdir and folder.exists() and not any(folder.iterdir()):
      folder.rmdir()


def _numbers(text: Any) -> set[int]:
  """Returns the numbers in text such as '3,17'."""
  return {int(n) for n in re.findall(r'\b\d{1,12}\b', str(text))}


def _match(folder: epath.Path, pattern: str) -> list[epath.Path]:
  if not folder.is_dir():
    return []
  return [p for p in folder.iterdir() if re.fullmatch(pattern, p.name)]


def _load(path: epath.Path, name: str) -> np.ndarray:
  with path.open('rb') as file, np.load(file) as arrays:
    return arrays[name]


def _differences(
  record: dict[str, Any] | None, protocol: dict[str, Any]
) -> list[str]:
  """Returns changes from `record` to `protocol`, as 'key: old -> new'."""
  record = without_folders(upgrade(record or {}))
  protocol = without_folders(protocol)
  return [
    f'{key}: {_shorten(record.get(key, "absent"))} -> {_shorten(value)}'
    for key, value in protocol.items()
    if record.get(key, 'absent') != value
  ]


def _shorten(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else f'{text[:57]}...'
