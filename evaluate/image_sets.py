"""Reads sets of images to score.

  .npz      images arr_0 (n, H, W, C), uint8 or float in [0, 1]; labels arr_1
  folder    image files at any depth, ordered by `input_pipeline.listing`; an
            optional labels.txt has one class index per line
  .zip      archive of such a folder
  tfds:     a set of TensorFlow Datasets, named tfds:NAME[:SPLIT]

An .npz is read in chunks, since 50,000 images of 256 x 256 take 10 GB. Float
images are scaled to [0, 255] without rounding.
"""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from core.errors import InputError
from core.npz import damage_of, header_of, read_array, read_header
from input_pipeline.image_files import TFDS, open_images
from input_pipeline.images import BrokenImageError, center_crop, decode
from input_pipeline.labels import as_labels, parse_labels
from input_pipeline.listing import SUFFIXES, Listing, is_image, list_files

CHUNK = 64  # number of images in a batch
# Largest number of pixels per image of an .npz; a chunk must fit in memory.
_MOST_PIXELS = 2**24
_THREADS = 8
LABELS = 'labels.txt'


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """A set of images to score.

  Attributes:
    name: Name that the user specified.
    count: Number of images.
    labels: Labels (n,) int; None if unknown.
    eight_bit: Whether the images are stored as uint8.
    batches: Function that reads all images as batches (n, H, W, C) in
      [0, 255], uint8 or float32.
  """

  name: str
  count: int
  labels: np.ndarray | None
  eight_bit: bool
  batches: Callable[[], Iterator[np.ndarray]]


def array_images(name: str, images: np.ndarray) -> ImageSet:
  """Returns a set of images (n, H, W, C) uint8 in memory."""
  return ImageSet(name, len(images), None, True, lambda: iter([images]))


def open_image_set(
  place: str, data_dir: str, *, image_size: int | None = None
) -> ImageSet:
  """Opens a set of images; raises InputError if there are no images.

  Args:
    place: An .npz, a folder, a .zip, or tfds:NAME[:SPLIT].
    data_dir: Folder of TFDS datasets.
    image_size: Size to which image files are cropped, as ADM crops ImageNet.
      None leaves the images unchanged and requires images of equal size.
  """
  if place.startswith(TFDS):
    files = open_images(place, data_dir)
    return _open_files(
      place, list(range(files.count)), lambda i: files.read(i).load(), None,
      image_size,
    )  # fmt: skip
  path = pathlib.Path(place).expanduser()
  if path.is_dir() and (path / 'samples.npz').is_file():
    path = path / 'samples.npz'  # written by the command `sample`
    place = str(path)
  if path.suffix == '.npz' and path.is_file():
    if image_size:
      raise InputError(
        f'eval.image_size crops image files, but {place} holds arrays; leave '
        'it out.'
      )
    return _open_npz(place, path)
  if (listing := list_files(place)) is not None:
    return _open_listing(listing, image_size)
  if path.suffix in ('.pkl', '.pickle'):
    raise InputError(
      f'{place} is a pickle, which can run code, and is not read; save its '
      'arrays with numpy: np.savez(path, mu=..., sigma=...).'
    )
  raise InputError(
    f'images {place} do not exist, or are neither an .npz with arr_0, nor a '
    f'folder or .zip of image files, nor {TFDS}NAME:SPLIT.'
  )


def _open_listing(listing: Listing, image_size: int | None) -> ImageSet:
  """Returns the set of listed images, with the labels of any labels.txt."""
  spec, images = listing.place, listing.images
  if not images:
    raise InputError(
      f'{spec} holds no image, expected files with one of the suffixes '
      f'{", ".join(SUFFIXES)}.'
    )
  # Archives often have a single top-level folder, which may contain labels.txt.
  root = os.path.commonpath([*images, *listing.others])
  root = f'{root}/' if root and not is_image(root) else ''
  labels_file = root + LABELS
  labels = None
  if labels_file in listing.others:
    # If folders contain images, an image beside labels.txt is only a preview.
    nested = tuple(name for name in images if '/' in name.removeprefix(root))
    images = nested or images
    with damage_of(f'{spec}: {LABELS}'):
      text = listing.read(labels_file).decode()
      labels = parse_labels(f'{spec}: {LABELS}', text)
    if len(labels) != len(images):
      raise InputError(
        f'{spec} holds {len(images)} images, but {LABELS} has {len(labels)} '
        'lines; is the set complete?'
      )
  listing.log_ignored(used=(labels_file,))
  return _open_files(spec, images, listing.read, labels, image_size)


def _open_files(
  spec: str,
  names: Sequence[Any],
  load: Callable[[Any], bytes],
  labels: np.ndarray | None,
  image_size: int | None,
) -> ImageSet:
  """Returns a set of image files; several threads decode the files."""
  pool = concurrent.futures.ThreadPoolExecutor(_THREADS)

  def image(name):
    try:
      with damage_of(f'{spec}: {name}'):
        data = load(name)
      picture = decode(data)
      if image_size:
        return center_crop(picture, image_size)
      return np.asarray(picture)
    except BrokenImageError as error:
      raise InputError(f'{spec}: {name} is broken ({error}).') from error

  shape = image(names[0]).shape

  def batches():
    for start in range(0, len(names), CHUNK):
      chunk = names[start : start + CHUNK]
      images = list(pool.map(image, chunk))
      for name, pixels in zip(chunk, images, strict=True):
        if pixels.shape != shape:
          raise InputError(
            f'{spec}: {name} has {pixels.shape[0]} x {pixels.shape[1]} pixels, '
            f'{names[0]} {shape[0]} x {shape[1]}; give images of one size, or '
            '--config.eval.image_size=256 to crop them.'
          )
      yield np.stack(images)

  return ImageSet(spec, len(names), labels, True, batches)


def _open_npz(spec: str, path: pathlib.Path) -> ImageSet:
  """Returns the images of an .npz as a set that is read in chunks."""
  with damage_of(spec):
    archive = zipfile.ZipFile(path)
    names = archive.namelist()
  if 'arr_0.npy' not in names:
    parts = ', '.join(name.removesuffix('.npy') for name in names) or 'nothing'
    raise InputError(
      f'{spec} holds {parts}, but no arr_0, the images (n, H, W, C); write it '
      'with np.savez(path, images).'
    )
  shape, fortran, dtype = header_of(spec, archive, 'arr_0')
  if fortran:
    raise InputError(
      f'{spec} has arr_0 in Fortran order; write it with np.ascontiguousarray.'
    )
  floats = np.issubdtype(dtype, np.floating)
  if len(shape) != 4 or shape[-1] not in (1, 3) or min(shape) < 1:
    raise InputError(
      f'{spec} has arr_0 of shape {shape}, expected (n, H, W, 3), channels '
      'last, or (n, H, W, 1).'
    )
  if shape[1] * shape[2] > _MOST_PIXELS:
    raise InputError(
      f'{spec} has images of {shape[1]} x {shape[2]}, expected at most '
      f'{_MOST_PIXELS:,} pixels each.'
    )
  if dtype != np.uint8 and not floats:
    raise InputError(
      f'{spec} has arr_0 of type {dtype}, expected uint8, or float in [0, 1].'
    )
  labels = None
  if 'arr_1.npy' in names:
    labels = read_array(spec, archive, 'arr_1')
    if labels.shape != shape[:1]:
      logging.warning(
        '%s has %d images, but arr_1 of shape %s: arr_1 is not used as labels.',
        spec, shape[0], labels.shape,
      )  # fmt: skip
      labels = None
    else:
      labels = as_labels(f'{spec}: arr_1', labels)
  batches = functools.partial(_rows, spec, archive, shape, dtype)
  return ImageSet(spec, shape[0], labels, not floats, batches)


def _rows(
  spec: str,
  archive: zipfile.ZipFile,
  shape: tuple[int, ...],
  dtype: np.dtype,
) -> Iterator[np.ndarray]:
  """Yields batches of arr_0, (n, H, W, C) in [0, 255]."""
  size = int(np.prod(shape[1:])) * dtype.itemsize
  with damage_of(spec):
    file = archive.open('arr_0.npy')
    read_header(file)
  for start in range(0, shape[0], CHUNK):
    count = min(CHUNK, shape[0] - start)
    with damage_of(spec):
      data = file.read(count * size)
    if len(data) < count * size:
      raise InputError(f'{spec} is truncated after image {start}.')
    images = np.frombuffer(data, dtype).reshape(-1, *shape[1:])
    if dtype == np.uint8:
      yield images
      continue
    low, high = float(images.min()), float(images.max())
    if not np.isfinite(images).all():
      raise InputError(
        f'{spec} has float images that are not finite, from image {start} on; '
        'sample them again.'
      )
    if not (low >= 0 and high <= 1):
      raise InputError(
        f'{spec} has float images from {low:g} to {high:g}, expected [0, 1] '
        '(or uint8 in [0, 255]); scale them.'
      )
    yield images.astype(np.float32) * 255
