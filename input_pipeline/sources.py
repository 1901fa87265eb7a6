"""Opens random-access sources of training records.

Records of `prepare` are latents or pixels (`input_pipeline.records`). Labeled
sets of TensorFlow Datasets in ArrayRecord format are read without TensorFlow.
Records of TFDS sets are {'image': uint8 (H, W, C), 'label': int}. The default
set, digits, is written if it is missing.
"""

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from core.errors import InputError
from core.files import is_full, write_error
from core.processes import together
from core.ranges import Choice, FolderName, PathText, Range, check_fields
from dit.autoencoder import NAMES
from dit.base import NetworkConfig
from dit.latents import DecoderPlace, LatentSpace, Normalization
from input_pipeline.digits import Digits
from input_pipeline.records import PROTOCOL, LatentSource
from input_pipeline.splits import check_same_classes

STATISTICS = ('autoencoder', 'data')
SplitName = Annotated[str, FolderName(empty=True)]


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Settings of the training data; configs/base.py explains each field."""

  name: Annotated[str, FolderName(nested=True)]
  dir: PathText
  train_split: SplitName
  test_split: SplitName
  threads: Annotated[int, Range(0, 1024)]
  prefetch: Annotated[int, Range(0, 65_536)]
  autoencoder: Annotated[str, Choice(NAMES)] = 'pixels'
  statistics: Annotated[str, Choice(STATISTICS)] = 'autoencoder'
  flip: bool = False
  workers: Annotated[int, Range(0, 1024)] = 0

  def __post_init__(self) -> None:
    check_fields('data', self)
    if not self.dir:
      raise InputError('data.dir is empty, expected a folder.')

  def prepared(self, split: str) -> pathlib.Path:
    """Returns the folder in which `prepare` stores a split."""
    return pathlib.Path(self.dir).expanduser() / self.name / split


def open_source(config: DataConfig, split: str) -> Any:
  """Opens a split as a sequence of records.

  Raises:
    InputError: if the set or the split is missing, or the training and the test
      split have different classes.
  """
  if not split:
    raise InputError('data.train_split or data.test_split is empty; name one.')
  folder = config.prepared(split)
  if (folder / PROTOCOL).exists():
    for name in (config.train_split, config.test_split):
      if name and name != split:
        check_same_classes(folder, config.prepared(name))
    return LatentSource(folder)
  if config.name == 'digits':
    with together():
      if jax.process_index() == 0:
        _prepare_digits(epath.Path(config.dir).expanduser())
  return ImageSource(open_tfds(config.name, config.dir, split), config.name)


class ImageSource:
  """The records of a TFDS split, with `source[i]` and `len(source)`."""

  def __init__(self, records: Any, name: str) -> None:
    self.dataset_info = records.dataset_info
    self._records, self._name = records, name
    features = self.dataset_info.features
    label = features['label'] if 'label' in features else None
    # In TFDS splits without classes, all labels are -1.
    self._classes = getattr(label, 'num_classes', None)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns record `index`; raises InputError if the label is invalid."""
    record = self._records[index]
    if self._classes and not 0 <= record['label'] < self._classes:
      raise InputError(
        f'record {index} of {self._name} has the label {record["label"]}, '
        f'expected 0 to {self._classes - 1}; choose a split whose images have '
        'classes.'
      )
    return record


def open_tfds(
  name: str, data_dir: str, split: str, *, decode: bool = True
) -> Any:
  """Opens a split of a set that TFDS prepared as ArrayRecord.

  Args:
    name: Name of the set.
    data_dir: Folder of TFDS.
    split: Name or slice of a split, such as train or train[:90%].
    decode: Whether to decode images; otherwise, images are bytes.

  Raises:
    InputError: if the set or the split is missing.
  """
  data_dir = epath.Path(data_dir).expanduser()
  try:
    builder = tfds.builder(name, data_dir=str(data_dir))
  except (
    tfds.core.DatasetNotFoundError,
    ValueError,
    AssertionError,
  ) as error:
    raise InputError(
      f'data.name {name!r} is neither a prepared set in {data_dir} nor one '
      'that TFDS knows; check the name, or set data.dir.'
    ) from error
  if not builder.info.splits:
    raise InputError(
      f'no data: {name!r} is not prepared in {data_dir}; set data.dir to the '
      'folder that holds it, or prepare it there with TFDS '
      "(file_format='array_record')."
    )
  if builder.info.file_format.value != 'array_record':
    raise InputError(
      f'data {name!r} in {data_dir} is stored as '
      f'{builder.info.file_format.value}; random access needs array_record: '
      "prepare it again with file_format='array_record'."
    )
  raw = {
    key: tfds.decode.SkipDecoding()
    for key, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image)
  }
  try:
    return builder.as_data_source(split=split, decoders=None if decode else raw)
  except ValueError as error:
    raise InputError(
      f'data {name!r} has no split {split!r}; it has '
      f'{", ".join(builder.info.splits)}, and slices such as train[:90%].'
    ) from error


def record_shape(source: Any) -> tuple[int, int, int]:
  """Returns the shape (H, W, C) of the records."""
  if isinstance(source, LatentSource):
    return source.metadata.layout.latent_shape
  return source[0]['image'].shape


def check_source(source: Any, config: DataConfig, model: NetworkConfig) -> None:
  """Raises InputError if the records do not fit the config."""
  if not len(source):
    raise InputError('no data: the split is empty.')
  check = _check_prepared if isinstance(source, LatentSource) else _check_images
  shape, classes = check(source, config)
  if classes is not None and classes > model.num_classes:
    raise InputError(
      f'the data has {classes} classes, but model.num_classes is '
      f'{model.num_classes}; set it to {classes}.'
    )
  if shape != model.latent_shape:
    raise InputError(
      f'records have shape {shape}, but model.size and model.channels give '
      f'{model.latent_shape}; set --config.model.size={shape[0]} and '
      f'--config.model.channels={shape[-1]}.'
    )


def _check_images(
  source: Any, config: DataConfig
) -> tuple[tuple[int, ...], int | None]:
  """Checks a TFDS set; returns image shape and number of classes."""
  record = source[0]
  gaps = {'image', 'label'} - set(record)
  if gaps:
    raise InputError(
      f'records hold {sorted(record)}, without {sorted(gaps)}; a '
      'class-labeled image set is needed.'
    )
  if config.autoencoder != 'pixels':
    raise InputError(
      f'data.autoencoder is {config.autoencoder}, but {config.name} holds '
      'images; encode them first: python main.py prepare.'
    )
  label = source.dataset_info.features['label']
  # A label feature of plain integers has no `num_classes`.
  return record['image'].shape, getattr(label, 'num_classes', None)


def _check_prepared(
  source: LatentSource, config: DataConfig
) -> tuple[tuple[int, ...], int]:
  """Checks a prepared set; returns latent shape and number of classes."""
  metadata = source.metadata
  name = metadata.protocol['autoencoder']['name']
  if name != config.autoencoder:
    raise InputError(
      f'{source.folder} was made with autoencoder {name}, but data.autoencoder '
      f'is {config.autoencoder}; set --config.data.autoencoder={name}.'
    )
  layout = metadata.layout
  if config.flip and layout.content == 'moments' and not layout.flip:
    raise InputError(
      f'data.flip is true, but {source.folder} holds no mirrored images; '
      'prepare it with --config.data.flip=true.'
    )
  normalization_of(source, config)
  source[len(source) - 1]  # reading a record checks its length and label
  return layout.latent_shape, len(metadata.classes)


def latent_space_of(source: Any, config: DataConfig) -> LatentSpace:
  """Returns the latent space of the records, with the decoder if known."""
  space = LatentSpace(
    'pixels',
    normalization=normalization_of(source, config),
    classes=tuple(_classes_of(source)),
  )
  if not isinstance(source, LatentSource):
    return space
  autoencoder = source.metadata.protocol['autoencoder']
  return dataclasses.replace(
    space,
    autoencoder=autoencoder['name'],
    encoder_sha256=autoencoder['encoder_sha256'],
    decoder=DecoderPlace.from_json(source.metadata.decoder),
  )


def _classes_of(source: Any) -> Sequence[str]:
  """Returns the class names of a source; () if it has no names."""
  if isinstance(source, LatentSource):
    return source.metadata.classes
  return getattr(source.dataset_info.features['label'], 'names', None) or ()


def normalization_of(source: Any, config: DataConfig) -> Normalization:
  """Returns the normalization that maps records to the network's inputs."""
  if not isinstance(source, LatentSource):
    return Normalization()
  if config.statistics == 'autoencoder':
    return source.metadata.normalization
  return source.metadata.statistics


def load_all(source: Any) -> tuple[np.ndarray, np.ndarray]:
  """Reads all images (n, H, W, C) uint8 and labels (n,) int32 of a source."""
  records = [source[i] for i in range(len(source))]
  if 'moments' in records[0]:
    raise InputError(
      'these records are latents, and images are needed: measure on a set of '
      'images of the same data.'
    )
  images = np.stack([image_of(record) for record in records])
  labels = np.asarray([record['label'] for record in records], np.int32)
  return images, labels


def image_of(record: dict[str, Any]) -> np.ndarray:
  """Returns the image (H, W, C) uint8 of a record of pixels."""
  return record['pixels'][0] if 'pixels' in record else record['image']


def _prepare_digits(data_dir: epath.Path) -> None:
  """Writes the digits; raises InputError, or WriteError if the disk is full."""
  builder = Digits(data_dir=str(data_dir), file_format='array_record')
  if builder.info.splits:
    return
  tfds.disable_progress_bar()
  # TFDS prints messages about downloads, although nothing is downloaded.
  with contextlib.redirect_stdout(io.StringIO()):
    try:
      builder.download_and_prepare()
    except OSError as error:
      if is_full(error):
        raise write_error(builder.data_dir, error) from error
      raise InputError(
        f'data.dir {builder.data_dir} cannot be written '
        f'({error.strerror or error}); choose another.'
      ) from error
  logging.info('Wrote the digits to %s.', data_dir)
