"""Opens labeled images from a folder, a .zip archive, a TFDS or an IDX set.

All sources return the name and the stored bytes of an image. A single decoder
(`input_pipeline.images`) reads these bytes, and errors name the broken file.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from core.errors import InputError
from input_pipeline.class_folders import class_folders
from input_pipeline.idx_files import is_idx, read_idx
from input_pipeline.listing import list_files
from input_pipeline.sources import open_tfds

TFDS = 'tfds:'


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
  """Opens a folder or .zip of CLASS/IMAGE, 'tfds:NAME[:SPLIT]', or IDX images.

  The labels of image files are indices into the sorted class names, as for
  ImageNet. IDX files name no classes, so the names are numbers. `data_dir` is
  the folder of TFDS.

  Raises:
    InputError: if there are no images, or their classes are ambiguous.
  """
  if place.startswith(TFDS):
    return _open_tfds(place, data_dir)
  if is_idx(place):
    return _open_idx(place)
  listing = list_files(place)
  if listing is None:
    raise InputError(
      f'images {place} are neither a folder, nor a readable .zip file, nor '
      f'{TFDS}NAME:SPLIT, nor an IDX file (*-images-idx3-ubyte); expected one '
      'of them, with CLASS/IMAGE inside a folder or .zip.'
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

  def read(i: int) -> ImageFile:
    name = f'{place}[{i}]'
    return ImageFile(name, int(labels[i]), lambda: _as_png(images[i]))

  classes = tuple(map(str, range(int(labels.max()) + 1)))
  return ImageFiles(place, classes, len(images), read, channels=1)


def _as_png(image: np.ndarray) -> bytes:
  data = io.BytesIO()
  Image.fromarray(image).save(data, 'PNG')
  return data.getvalue()
