"""Reads and writes the records that `prepare` makes for training.

A split of a prepared set is a folder:

  metadata.json                       everything in `Metadata`
  00000-of-00013.array_record         shards with random access to records

A record is a label (int32, little-endian) and an array, and a second array if
the mirrored image is stored as well. The arrays have one of these contents:

  pixels    the image, uint8
  moments   mean and std of the latent's posterior, 2C channels, float16 or
            float32

Shards are written atomically. metadata.json is written last, so a folder with
this file is complete.
"""

import dataclasses
import pathlib
from typing import Any

import grain
import numpy as np
from etils import epath

from core.errors import InputError, check_choice
from core.files import parse_json
from core.nested import with_tuples
from core.renamed_keys import upgrade_latents
from dit.latents import Normalization

FORMAT = 1
METADATA, PROTOCOL = 'metadata.json', 'protocol.json'
CONTENTS = {'pixels': ('uint8',), 'moments': ('float16', 'float32')}
_LABEL = np.dtype('<i4')


@dataclasses.dataclass(frozen=True)
class Layout:
  """The layout of a record.

  Attributes:
    content: Content of the arrays, 'pixels' or 'moments'.
    shape: Shape (H, W, C) of pixels or (H, W, 2C) of moments.
    dtype: Type of the numbers.
    flip: Whether a record also has the array of the mirrored image.
  """

  content: str
  shape: tuple[int, int, int]
  dtype: str
  flip: bool

  def __post_init__(self) -> None:
    check_choice('content', self.content, CONTENTS)
    check_choice('dtype', self.dtype, CONTENTS[self.content])

  @property
  def arrays_shape(self) -> tuple[int, ...]:
    """Shape of the arrays: (1, ...) without `flip`, (2, ...) with `flip`."""
    return (1 + self.flip, *self.shape)

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """Shape (H, W, C) of the latent."""
    h, w, channels = self.shape
    return (h, w, channels // (2 if self.content == 'moments' else 1))

  @property
  def nbytes(self) -> int:
    """Number of bytes of a record."""
    dtype = np.dtype(self.dtype)
    return _LABEL.itemsize + int(np.prod(self.arrays_shape)) * dtype.itemsize

  def pack(self, label: int, arrays: np.ndarray) -> bytes:
    """Returns the bytes of a record; arrays have `arrays_shape`."""
    if arrays.shape != self.arrays_shape or arrays.dtype != self.dtype:
      raise ValueError(
        f'arrays are {arrays.dtype} {arrays.shape}, expected {self.dtype} '
        f'{self.arrays_shape}.'
      )
    return _LABEL.type(label).tobytes() + arrays.tobytes()

  def unpack(self, record: bytes) -> dict[str, np.ndarray]:
    """Inverts `pack`; returns 'label' (int32), and arrays as key `content`."""
    if len(record) != self.nbytes:
      raise ValueError(f'{len(record)} bytes, expected {self.nbytes}')
    label = np.frombuffer(record, _LABEL, count=1)[0]
    values = np.frombuffer(record, self.dtype, offset=_LABEL.itemsize)
    return {
      'label': label.astype(np.int32),
      self.content: values.reshape(self.arrays_shape),
    }


@dataclasses.dataclass(frozen=True)
class Shard:
  """The description of a shard, which is one file of records.

  Attributes:
    counts: Number of records of each class.
    broken: Names of the images that could not be read.
    mean: Mean of each latent channel, (C,); 0 if there are no records.
    square: Mean square of each latent channel, (C,).
  """

  file: str
  records: int
  nbytes: int
  sha256: str
  counts: tuple[int, ...]
  broken: tuple[str, ...]
  mean: tuple[float, ...]
  square: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Metadata:
  """The metadata of a split.

  Attributes:
    protocol: Settings that determine the records: images, crop, autoencoder,
      and the hash of the autoencoder's weights.
    classes: Names of the classes, in the order of the labels.
    normalization: Normalization of the autoencoder's latents.
    decoder: Location and hash of the decoder, as in `dit.latents.DecoderPlace`;
      None if unknown.
  """

  layout: Layout
  protocol: dict[str, Any]
  classes: tuple[str, ...]
  normalization: Normalization
  shards: tuple[Shard, ...]
  decoder: dict[str, str] | None = None

  @property
  def records(self) -> int:
    """Number of records in all shards."""
    return sum(shard.records for shard in self.shards)

  @property
  def counts(self) -> list[int]:
    """Number of records of each class."""
    return np.sum([shard.counts for shard in self.shards], axis=0).tolist()

  @property
  def broken(self) -> tuple[str, ...]:
    """Names of the broken images, which have no record."""
    return sum((shard.broken for shard in self.shards), ())

  @property
  def statistics(self) -> Normalization:
    """Mean and std of each channel; a constant channel raises InputError."""
    mean, std = self._mean_and_std()
    # Rounding can make the computed std of a constant channel nonzero.
    constant = np.flatnonzero(std <= 1e-6 * (1 + np.abs(mean)))
    if constant.size:
      raise InputError(
        f'channels {constant.tolist()} of the records never vary, so '
        'data.statistics=data cannot normalize them; set '
        'data.statistics=autoencoder.'
      )
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))

  def _mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
    share = np.asarray([s.records for s in self.shards]) / self.records
    mean = share @ np.asarray([shard.mean for shard in self.shards])
    square = share @ np.asarray([shard.square for shard in self.shards])
    return mean, np.sqrt(np.maximum(square - mean**2, 0))

  def unpack(self, record: bytes) -> dict[str, np.ndarray]:
    """Unpacks a record; raises ValueError for a wrong length or label."""
    values = self.layout.unpack(record)
    if not 0 <= values['label'] < len(self.classes):
      raise ValueError(
        f'its label is {values["label"]}, expected 0 to {len(self.classes) - 1}'
      )
    return values

  def to_json(self) -> dict[str, Any]:
    """Returns the metadata as plain values, preceded by a summary."""
    mean, std = self._mean_and_std()
    return {
      'format': FORMAT,
      'records': self.records,
      'broken': len(self.broken),
      'counts': self.counts,
      'statistics': {'mean': mean.tolist(), 'std': std.tolist()},
      **dataclasses.asdict(self),
    }

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'Metadata':
    """Reads a folder's metadata; raises InputError if absent or damaged."""
    path = pathlib.Path(folder) / METADATA
    try:
      values = parse_json(path.read_bytes())
      if values['format'] != FORMAT:
        raise ValueError(f'format {values["format"]}, expected {FORMAT}')
      values = upgrade_latents(values)
      return cls(
        layout=from_json(Layout, values['layout']),
        protocol=values['protocol'],
        classes=tuple(values['classes']),
        normalization=from_json(Normalization, values['normalization']),
        shards=tuple(from_json(Shard, shard) for shard in values['shards']),
        decoder=values.get('decoder'),
      )
    except OSError as error:
      raise InputError(
        f'{path} cannot be read ({error.strerror or error}): the set is not '
        'complete; run prepare to its end.'
      ) from error
    except (ValueError, KeyError, TypeError) as error:
      raise InputError(
        f'{path} is damaged or of another version ({type(error).__name__}: '
        f'{error}); delete it, and run prepare again, which keeps the shards.'
      ) from error


def from_json(kind: type, values: dict[str, Any]) -> Any:
  """Builds a dataclass from JSON values; lists become tuples."""
  if not isinstance(values, dict):
    raise TypeError(f'{kind.__name__} is not a JSON object')
  return kind(**with_tuples(values))


class LatentSource:
  """The records of a prepared split, with `source[i]` and `len(source)`."""

  def __init__(self, folder: epath.PathLike) -> None:
    """Opens the split and checks the sizes of all shards.

    Raises:
      InputError: Metadata are missing or damaged, or a shard is missing or has
        the wrong size.
    """
    self.folder = pathlib.Path(folder)
    self.metadata = Metadata.load(folder)
    for shard in self.metadata.shards:
      path = self.folder / shard.file
      if not path.is_file():
        raise InputError(
          f'shard {path} is missing; run prepare again, which writes only '
          'missing shards.'
        )
      if path.stat().st_size != shard.nbytes:
        raise InputError(
          f'shard {path} has {path.stat().st_size} bytes, expected '
          f'{shard.nbytes}; delete it and run prepare again.'
        )
    files = [str(self.folder / s.file) for s in self.metadata.shards]
    try:
      self._records = grain.sources.ArrayRecordDataSource(files)
    except RuntimeError as error:
      raise InputError(
        f'a shard in {self.folder} is damaged ({error}); run prepare --verify '
        'to find it.'
      ) from error

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns record `index`; see `Metadata.unpack`."""
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    try:
      return self.metadata.unpack(self._records[int(index)])
    # `unpack` raises ValueError; a wrong checksum raises RuntimeError.
    except (ValueError, RuntimeError) as error:
      raise InputError(
        f'record {index} of {self.folder} is damaged: {error}; '
        'run prepare --verify to find the shard.'
      ) from error

  def __repr__(self) -> str:
    return f'LatentSource({str(self.folder)!r})'
