"""Opens labeled images from a folder, .zip, .npz, TFDS set or IDX file.

All sources return the name and the stored bytes of an image. A single decoder
(`input_pipeline.images`) reads these bytes, and errors name the broken file.
"""

import dataclasses
import io
import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from core import npz
from core.errors import InputError
from input_pipeline.class_folders import class_folders
from input_pipeline.idx_files import is_idx, read_idx
from input_pipeline.listing import list_files
from input_pipeline.sources import open_tfds

TFDS = 'tfds:'
_MOST_CLASSES = 10**6


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """An image file before it is decoded.

  Attributes:
    name: Name for messages.
    label: Index of the class, from 0.
    load: Function that returns the bytes of the file; raises BrokenImageError
      for a file that is too large or not readable.
  """

  name: str
  label: int
  load: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class ImageFiles:
  """A set of labeled images.

  Attributes:
    name: Path or TFDS name that the user gave.
    classes: Names of the classes, in the order of the labels.
    count: Number of images.
    read: Thread-safe function from i to image i, for 0 <= i < count.
    channels: Number of channels, 1 if all images are gray, else 3.
  """

  name: str
  classes: tuple[str, ...]
  count: int
  read: Callable[[int], ImageFile]
  channels: int = 3

  def relabel(self, classes: Sequence[str]) -> 'ImageFiles':
    """Returns the same images, with labels that index a new list of classes."""
    if tuple(classes) == self.classes:
      return self
    number = {name: label for label, name in enumerate(classes)}
    labels = [number[name] for name in self.classes]

    def read(i: int) -> ImageFile:
      file = self.read(i)
      return dataclasses.replace(file, label=labels[file.label])

    return dataclasses.replace(self, classes=tuple(classes), read=read)

  def rename(self, names: Sequence[str]) -> 'ImageFiles':
    """Returns the same images with new names for the classes 0, 1, ...

    Raises InputError if the number of names is wrong, or a name is not unique.
    """
    if len(names) != len(self.classes) or len(set(names)) < len(names):
      raise InputError(
        f'--class_names has {len(names)} names, {len(set(names))} of them '
        f'different; {self.name} has {len(self.classes)} classes, and each '
        'needs its own name.'
      )
    return dataclasses.replace(self, classes=tuple(names))


def open_images(place: str, data_dir: str) -> ImageFiles:
  """Opens a folder or .zip of CLASS/IMAGE, TFDS set, .npz or IDX file.

  The labels of image files are indices into the sorted class names, as for
  ImageNet. An .npz (arr_0 with images, arr_1 with labels) and an IDX file name
  no classes, so the names are numbers. `data_dir` is the folder of TFDS.

  Raises:
    InputError: if there are no images, or their classes are ambiguous.
  """
  if place.startswith(TFDS):
    return _open_tfds(place, data_dir)
  if is_idx(place):
    return _open_idx(place)
  if place.endswith('.npz') and os.path.isfile(os.path.expanduser(place)):
    return _open_npz(place)
  listing = list_files(place)
  if listing is None:
    raise InputError(
      f'images {place} are neither a folder, nor a readable .zip file, nor '
      f'{TFDS}NAME:SPLIT, nor an .npz, nor an IDX file (*-images-idx3-ubyte); '
      'expected one of them, with CLASS/IMAGE inside a folder or .zip.'
    )
  listing.log_ignored()
  folders = class_folders(listing)
  classes = tuple(sorted({*folders.values()}))
  number = {name: label for label, name in enumerate(classes)}

  def read(i: int) -> ImageFile:
    name = listing.images[i]
    label = number[folders[name.rpartition('/')[0]]]
    return ImageFile(name, label, lambda: listing.read(name))

  return ImageFiles(place, classes, len(listing.images), read)


def _open_tfds(text: str, data_dir: str) -> ImageFiles:
  name, _, split = text.removeprefix(TFDS).partition(':')
  source = open_tfds(name, data_dir, split or 'train', decode=False)
  features = source.dataset_info.features
  if not {'image', 'label'} <= set(features):
    raise InputError(
      f'{text} has the features {sorted(features)}, expected image and label.'
    )

  def read(i: int) -> ImageFile:
    record = source[i]
    image = record['image']
    if not isinstance(image, bytes):  # TFDS stores an array, not a file
      array = np.asarray(image)
      image = _as_png(array[..., 0] if array.shape[-1] == 1 else array)
    title = record.get('file_name', f'{split or "train"}[{i}]')
    title = title.decode() if isinstance(title, bytes) else title
    label = int(record['label'])
    if not 0 <= label < len(classes):
      raise InputError(
        f'{text}: {title} has the label {label}, expected 0 to '
        f'{len(classes) - 1}; choose a split whose images have classes.'
      )
    return ImageFile(title, label, lambda: image)

  label = features['label']
  names = getattr(label, 'names', None) or range(label.num_classes)
  classes = tuple(map(str, names))
  channels = 1 if features['image'].shape[-1] == 1 else 3
  return ImageFiles(text, classes, len(source), read, channels)


def _open_idx(place: str) -> ImageFiles:
  images, labels = read_idx(place)
  return _open_arrays(place, images, labels)


def _open_npz(place: str) -> ImageFiles:
  path = pathlib.Path(place).expanduser()
  with npz.damage_of(place), zipfile.ZipFile(path) as archive:
    if not {'arr_0.npy', 'arr_1.npy'} <= {*archive.namelist()}:
      raise InputError(f'{place} lacks arr_0 (images) or arr_1 (labels).')
    images, labels = (
      npz.read_array(place, archive, name) for name in ('arr_0', 'arr_1')
    )
  shape = images.shape
  is_image = len(shape) == 4 and min(shape) > 0 and shape[-1] in (1, 3)
  if images.dtype != np.uint8 or not is_image:
    raise InputError(
      f'{place}: arr_0 has shape {images.shape} and type {images.dtype}, '
      'expected images (n, H, W, 1 or 3) uint8.'
    )
  if labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
    raise InputError(
      f'{place}: arr_1 has shape {labels.shape} and type {labels.dtype}, '
      f'expected the labels ({len(images)},) int of the images.'
    )
  if labels.min() < 0 or labels.max() >= _MOST_CLASSES:
    raise InputError(
      f'{place}: labels are {labels.min()} to {labels.max()}, expected numbers '
      f'from 0 to {_MOST_CLASSES - 1}.'
    )
  return _open_arrays(place, images, labels)


def _open_arrays(
  place: str, images: np.ndarray, labels: np.ndarray
) -> ImageFiles:
  """Returns images (n, H, W) or (n, H, W, C) uint8 in memory as a set."""
  if images.ndim == 4 and images.shape[-1] == 1:
    images = images[..., 0]

  def read(i: int) -> ImageFile:
    return ImageFile(
      f'{place}[{i}]', int(labels[i]), lambda: _as_png(images[i])
    )

  classes = tuple(map(str, range(int(labels.max()) + 1)))
  channels = 1 if images.ndim == 3 else 3
  return ImageFiles(place, classes, len(images), read, channels)


def _as_png(image: np.ndarray) -> bytes:
  data = io.BytesIO()
  Image.fromarray(image).save(data, 'PNG')
  return data.getvalue()
