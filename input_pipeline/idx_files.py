"""Reads images and labels in the IDX format of the MNIST family.

  images   0 0 8 3, then n, H, W as big-endian int32, then n H W bytes
  labels   0 0 8 1, then n, then n bytes

A file may be compressed with gzip. The name of the labels' file is the name of
the images' file with `labels-idx1` in place of `images-idx3`.
"""

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

from core.errors import InputError

_IMAGES, _LABELS = 'images-idx3', 'labels-idx1'
_GZIP = b'\x1f\x8b'
_BYTES = 8  # type code of unsigned bytes
_MOST_BYTES = 2**33


def is_idx(place: str) -> bool:
  """Returns whether a path names images in the IDX format."""
  path = os.path.expanduser(place)
  return _IMAGES in os.path.basename(path) and os.path.isfile(path)


def read_idx(place: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads images (n, H, W) uint8 and labels (n,) uint8.

  Args:
    place: Path of the images' file.

  Raises:
    InputError: if a file is missing or damaged, or the counts differ.
  """
  path = pathlib.Path(place).expanduser()
  images = _read(path, 3)
  labels_path = path.with_name(path.name.replace(_IMAGES, _LABELS))
  labels = _read(labels_path, 1)
  if len(images) != len(labels):
    raise InputError(
      f'{path} has {len(images)} images, but {labels_path} has {len(labels)} '
      'labels; expected two files of the same split.'
    )
  if not images.size:
    raise InputError(f'{path} holds no image.')
  return images, labels


def _read(path: pathlib.Path, ndim: int) -> np.ndarray:
  try:
    with open(path, 'rb') as file:
      is_compressed = file.read(2) == _GZIP
    with gzip.open(path) if is_compressed else open(path, 'rb') as file:
      header = file.read(4 + 4 * ndim)
      if header[:4] != bytes((0, 0, _BYTES, ndim)) or len(header) % 4:
        raise InputError(
          f'{path} does not start like an IDX file of bytes with {ndim} '
          'dimensions; download it again.'
        )
      shape = tuple(np.frombuffer(header, '>u4', offset=4).tolist())
      size = math.prod(shape)
      if len(shape) < ndim or size > _MOST_BYTES:
        raise InputError(f'{path} is damaged: its shape is {shape}.')
      data = file.read(size + 1)
  except (OSError, EOFError, zlib.error) as error:
    raise InputError(
      f'{path} cannot be read ({getattr(error, "strerror", None) or error}); '
      f'expected *-{_IMAGES}-ubyte and *-{_LABELS}-ubyte, with or without .gz, '
      'in one folder.'
    ) from error
  if len(data) != size:
    raise InputError(
      f'{path} is damaged: shape {shape} needs {size} bytes, but '
      f'{"fewer" if len(data) < size else "more"} follow; download it again.'
    )
  return np.frombuffer(data, np.uint8).reshape(shape)
