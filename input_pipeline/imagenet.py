"""ImageNet (ILSVRC 2012) from the official tars to TFDS's set, once.

TFDS can do that only where TensorFlow is installed, for its generator opens the
tars with it. Here Python opens them; name, version, features, labels, splits
and order of the records are TFDS's. Files are stored as they are: TFDS encodes
23 of the training images anew, in CMYK or PNG, which `images.decode` reads.
"""

import io
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from core.errors import InputError
from input_pipeline.sources import write_tfds

NAME = 'imagenet2012'
TARS = {
  'train': 'ILSVRC2012_img_train.tar',
  'validation': 'ILSVRC2012_img_val.tar',
}
# One line for each validation image, in the order of their names.
_LABELS = 'datasets/imagenet2012/validation_labels.txt'


def write_imagenet(data_dir: pathlib.Path) -> None:
  """Writes the set under `data_dir` where it is missing.

  Args:
    data_dir: of TFDS; the tars lie where TFDS looks for them, in
      downloads/manual.

  Raises:
    InputError: for a tar that is missing or damaged, or an unwritable folder.
  """
  if tfds.builder(NAME, data_dir=str(data_dir)).info.splits:
    return
  folder = data_dir / 'downloads' / 'manual'
  tars = {split: folder / name for split, name in TARS.items()}
  if missing := [tar.name for tar in tars.values() if not tar.is_file()]:
    raise InputError(
      f'{NAME} is not in {data_dir}, and {" and ".join(missing)} not in '
      f'{folder}; set data.dir, or put the tars of image-net.org there.'
    )
  builder = tfds.builder(
    NAME, data_dir=str(data_dir), file_format='array_record'
  )
  # In place of its own, which needs TensorFlow.
  builder._split_generators = lambda _: {
    'train': _train(tars['train']),
    'validation': _validation(tars['validation']),
  }
  logging.info('Writing %s from the tars in %s.', NAME, folder)
  try:
    write_tfds(builder, download_dir=str(data_dir / 'downloads'))
  # Of tarfile; of TFDS, for a class that it does not know or a full disk.
  except (tarfile.TarError, EOFError, RuntimeError) as error:
    raise InputError(
      f'{NAME} cannot be written from the tars in {folder} '
      f'({" ".join(str(error).split())[-200:]}); they must be those of '
      'ILSVRC 2012, whole, and the disk have room for as much again.'
    ) from error


def _train(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Keys and examples of a tar of tars, SYNSET.tar each."""
  with tarfile.open(path) as archive:
    for member in archive:
      synset = member.name.removesuffix('.tar')
      with tarfile.open(fileobj=archive.extractfile(member)) as images:
        for image in images:
          yield _example(images, image, synset)


def _validation(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Keys and examples of a tar of images."""
  labels = tfds.core.tfds_path(_LABELS).read_text().split()
  with tarfile.open(path) as archive:
    members = sorted(archive, key=lambda member: member.name)
    for member, label in zip(members, labels, strict=False):
      yield _example(archive, member, label)


def _example(
  archive: tarfile.TarFile, member: tarfile.TarInfo, label: str
) -> tuple[str, dict[str, Any]]:
  file = archive.extractfile(member)
  assert file is not None
  data = io.BytesIO(file.read())
  example = {'file_name': member.name, 'image': data, 'label': label}
  return member.name, example
