"""Random-access sources of records {'image': uint8 (H, W, C), 'label': int}.

Any class-labelled set of TensorFlow Datasets that was prepared as ArrayRecord
is read through `tfds.data_source`, without TensorFlow. The digits are written
where they are missing.
"""

import contextlib
import dataclasses
import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from dit.config import DiTConfig
from dit.types import InputError
from train.data.digits import Digits


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Which records, and how they are read.

  Attributes:
    name: 'digits', or the name of a prepared TFDS set.
    dir: folder that holds prepared sets, as TFDS lays it out.
    train_split: to train on; also the reference of distances.
    test_split: held out; the floor of distances.
    threads: that read records.
    prefetch: batches read ahead.
  """

  name: str
  dir: str
  train_split: str
  test_split: str
  threads: int
  prefetch: int

  def __post_init__(self) -> None:
    """Checks that there is a folder, and counts."""
    if not self.dir:
      raise InputError('data.dir is empty, expected a folder.')
    for field in ('threads', 'prefetch'):
      if getattr(self, field) < 0:
        raise InputError(
          f'data.{field} is {getattr(self, field)}, expected at least 0.'
        )


def open_source(config: DataConfig, split: str) -> Any:
  """Opens one split: `source[i]` is a record, `len(source)` their number.

  Raises:
    InputError: if the set, or the split, is not there.
  """
  data_dir = epath.Path(config.dir).expanduser()
  if config.name == 'digits':
    _prepare_digits(data_dir)
  try:
    builder = tfds.builder(config.name, data_dir=str(data_dir))
  except (
    tfds.core.DatasetNotFoundError,
    ValueError,
    AssertionError,
  ) as error:
    raise InputError(
      f'data.name {config.name!r} is neither a prepared set in {data_dir} nor '
      'one that TFDS knows; check the name, or set data.dir.'
    ) from error
  if not builder.info.splits:
    raise InputError(
      f'no data: {config.name!r} is not prepared in {data_dir}; set data.dir '
      'to the folder that holds it, or prepare it there with TFDS '
      "(file_format='array_record')."
    )
  if builder.info.file_format.value != 'array_record':
    raise InputError(
      f'data {config.name!r} in {data_dir} is stored as '
      f'{builder.info.file_format.value}; random access needs array_record: '
      "prepare it again with file_format='array_record'."
    )
  try:
    return builder.as_data_source(split=split)
  except ValueError as error:
    raise InputError(
      f'data {config.name!r} has no split {split!r}; it has '
      f'{", ".join(builder.info.splits)}, and slices such as train[:90%].'
    ) from error


def check_source(source: Any, model: DiTConfig) -> None:
  """Raises InputError unless the records fit the network."""
  if not len(source):
    raise InputError('no data: the split is empty.')
  record = source[0]
  missing = {'image', 'label'} - set(record)
  if missing:
    raise InputError(
      f'records hold {sorted(record)}, without {sorted(missing)}; a '
      'class-labelled image set is needed.'
    )
  label = source.dataset_info.features['label']
  classes = getattr(label, 'num_classes', None)  # None: a plain integer
  if classes is not None and classes > model.num_classes:
    raise InputError(
      f'the data has {classes} classes, but model.num_classes is '
      f'{model.num_classes}; set it to {classes}.'
    )
  if record['image'].shape != model.latent_shape:
    raise InputError(
      f'images have shape {record["image"].shape}, but model.size and '
      f'model.channels say {model.latent_shape}; make them agree.'
    )


def load_all(source: Any) -> tuple[np.ndarray, np.ndarray]:
  """Every image (n, H, W, C) uint8 and label (n,) int32 of a small source."""
  records = source.__getitems__(list(range(len(source))))
  images = np.stack([record['image'] for record in records])
  labels = np.asarray([record['label'] for record in records], np.int32)
  return images, labels


def _prepare_digits(data_dir: epath.Path) -> None:
  """Writes the digits under `data_dir` where they are missing."""
  builder = Digits(data_dir=str(data_dir), file_format='array_record')
  if builder.info.splits:
    return
  # TFDS draws bars and prints of downloads, of which there are none.
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):
    try:
      builder.download_and_prepare()
    except OSError as error:
      raise InputError(
        f'data.dir {data_dir} cannot be written '
        f'({error.strerror or error}); choose another.'
      ) from error
  logging.info('Wrote the digits to %s.', data_dir)
