"""Reads and writes the .npz files of images.

The header of a damaged file can claim 10^12 images, so reading compares the
claimed size with the size of the archive. numpy parses headers as Python
literals, so damage can also make Python's parser fail. Writing streams images,
so that 50,000 images need the memory of one image.
"""

import contextlib
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np
from etils import epath

from core.errors import InputError, reason
from core.files import replacing

# Largest accepted compression ratio; deflate reaches at most 1,032.
_RATIO = 1040
# Exceptions that numpy, zipfile and Python's parser raise for damaged files.
DAMAGED = (
  OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError,
  OverflowError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error,
  struct.error, tokenize.TokenError,
)  # fmt: skip


@contextlib.contextmanager
def damage_of(place: object) -> Iterator[None]:
  """Turns exceptions that a damaged file causes into an InputError."""
  try:
    yield
  except InputError:
    raise
  except DAMAGED as error:
    raise InputError(f'{place} is damaged ({reason(error)}).') from error


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Returns an array's shape, whether it has Fortran order, and its type."""
  if np.lib.format.read_magic(file) == (1, 0):
    return np.lib.format.read_array_header_1_0(file)
  return np.lib.format.read_array_header_2_0(file)


def header_of(
  place: object, archive: zipfile.ZipFile, name: str
) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Returns the header of an array; checks that the array fits the archive.

  Args:
    place: Name of the file, for messages.
    archive: Open .npz file.
    name: Name of the array, without .npy.

  Raises:
    InputError: if the array is damaged, or too large for the archive.
  """
  with damage_of(place), archive.open(f'{name}.npy') as file:
    shape, fortran, dtype = read_header(file)
    start, info = file.tell(), archive.getinfo(f'{name}.npy')
    limit = min(info.file_size - start, info.compress_size * _RATIO)
  size = math.prod(shape) * dtype.itemsize
  if min(shape, default=0) < 0 or size > limit:
    raise InputError(
      f'{place} is damaged: {name} of shape {str(shape)[:80]} claims more than '
      f'the {max(limit, 0):,} bytes that the file can hold.'
    )
  return shape, fortran, dtype


def read_array(
  place: object, archive: zipfile.ZipFile, name: str
) -> np.ndarray:
  """Reads an array after the checks of `header_of`."""
  header_of(place, archive, name)
  with damage_of(place), archive.open(f'{name}.npy') as file:
    return np.lib.format.read_array(file, allow_pickle=False)


def names_of(path: epath.Path) -> set[str]:
  """Returns the names of the arrays in an .npz file."""
  try:
    with path.open('rb') as file, zipfile.ZipFile(file) as archive:
      return {name.removesuffix('.npy') for name in archive.namelist()}
  except DAMAGED as error:
    raise InputError(
      f'{path} is damaged, or not an .npz ({reason(error)}).'
    ) from error


def write_images(
  path: epath.Path,
  images: Iterable[np.ndarray],
  labels: np.ndarray,
  shape: Sequence[int],
) -> None:
  """Writes images one by one, in the format of the ADM evaluator.

  Args:
    path: File, which appears after all images are written.
    images: One uint8 image of `shape` for each label.
    labels: Labels (n,) int.
    shape: Shape (H, W, C) of one image.
  """
  header = {
    'descr': '|u1',
    'fortran_order': False,
    'shape': (len(labels), *shape),
  }
  with (
    replacing(path) as temp_path,
    temp_path.open('wb') as file,
    zipfile.ZipFile(file, 'w') as archive,
  ):
    with archive.open('arr_0.npy', 'w', force_zip64=True) as array:
      np.lib.format.write_array_header_1_0(array, header)
      for image in images:
        array.write(image.tobytes())
    with archive.open('arr_1.npy', 'w') as array:
      np.lib.format.write_array(array, labels)
