"""Image files with a class each: a folder, a zip file, or a TFDS set.

All give `read(i) -> ImageFile`, the bytes as they were stored, so that one
decoder (`train.data.images`) serves every set and a broken file has a name.
"""

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import logging
from PIL import Image

from dit.errors import InputError
from train.data.imagenet import NAME, write_imagenet
from train.data.processes import together
from train.data.source import open_tfds

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')
TFDS = 'tfds:'


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """One image, undecoded.

  Attributes:
    name: to call it by.
    label: its class, from 0.
    data: the bytes of its file.
  """

  name: str
  label: int
  data: bytes


@dataclasses.dataclass(frozen=True)
class ImageFiles:
  """A set of images: read(i) for i from 0 to count - 1.

  Attributes:
    name: what the user called it.
    classes: names, in the order of the labels.
    count: images.
    read: image i; from any thread.
  """

  name: str
  classes: tuple[str, ...]
  count: int
  read: Callable[[int], ImageFile]


def open_images(place: str, data_dir: str) -> ImageFiles:
  """Opens a folder or .zip of CLASS/IMAGE, or 'tfds:NAME[:SPLIT]'.

  The labels of a folder are the places of its class names in sorted order, as
  ImageNet's are.

  Args:
    place: what to open.
    data_dir: where TFDS keeps its sets.

  Raises:
    InputError: if there are no images.
  """
  if place.startswith(TFDS):
    return _open_tfds(place, data_dir)
  path = pathlib.Path(place).expanduser()
  if path.is_dir():
    names = [
      str(file.relative_to(path)) for file in path.rglob('*') if file.is_file()
    ]
    return _of_names(place, names, lambda name: (path / name).read_bytes())
  if zipfile.is_zipfile(path):
    archive = zipfile.ZipFile(path)
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    return _of_names(place, names, archive.read)
  raise InputError(
    f'images {place} are neither a folder, nor a readable .zip file, nor '
    f'{TFDS}NAME:SPLIT; expected one of them with CLASS/IMAGE inside.'
  )


def _of_names(
  place: str, names: Sequence[str], read: Callable[[str], bytes]
) -> ImageFiles:
  """Images by path; the folder around an image is its class."""
  images = sorted(
    name
    for name in names
    if name.lower().endswith(SUFFIXES) and not pathlib.Path(name).name[0] == '.'
  )
  parents = [pathlib.PurePosixPath(name).parent.name for name in images]
  if not images or not all(parents):
    found = images[parents.index('')] if images else 'no image'
    raise InputError(
      f'{place} holds {found}, expected images as CLASS/IMAGE, with one of the '
      f'suffixes {", ".join(SUFFIXES)}.'
    )
  if len(images) < len(names):
    logging.info('%s: %d other files.', place, len(names) - len(images))
  classes = tuple(sorted(set(parents)))
  number = {name: k for k, name in enumerate(classes)}
  return ImageFiles(
    place,
    classes,
    len(images),
    lambda i: ImageFile(images[i], number[parents[i]], read(images[i])),
  )


def _open_tfds(place: str, data_dir: str) -> ImageFiles:
  name, _, split = place.removeprefix(TFDS).partition(':')
  if name == NAME:
    with together():
      if jax.process_index() == 0:
        write_imagenet(pathlib.Path(data_dir).expanduser())
  source = open_tfds(name, data_dir, split or 'train', decode=False)
  features = source.dataset_info.features
  if not {'image', 'label'} <= set(features):
    raise InputError(
      f'{place} has the features {sorted(features)}, expected image and label.'
    )

  def read(i: int) -> ImageFile:
    record = source[i]
    image = record['image']
    if not isinstance(image, bytes):  # stored as numbers, not as a file
      data = io.BytesIO()
      array = np.asarray(image)
      array = array[..., 0] if array.shape[-1] == 1 else array
      Image.fromarray(array).save(data, 'PNG')
      image = data.getvalue()
    known = record.get('file_name', f'{split or "train"}[{i}]')
    known = known.decode() if isinstance(known, bytes) else known
    return ImageFile(known, int(record['label']), image)

  label = features['label']
  classes = getattr(label, 'names', None) or map(str, range(label.num_classes))
  return ImageFiles(place, tuple(classes), len(source), read)
