"""Encodes images as records of latents, once before training.

  image file -> upright RGB -> center crop -> x in [-1, 1] -> mean, std

With `flip`, a record also has mean and std of the mirrored image. Shard k has
images k S to (k + 1) S - 1 of the unshuffled set, since training shuffles
records. Process p of P computes the shards p, p + P, ... on local devices.
Finished shards are kept, so the same command resumes with any P.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from core.errors import InputError, PrepareError
from core.files import write_json
from core.overlap import one_ahead
from core.processes import everywhere, together
from core.progress import image_progress
from core.ranges import BatchSize, Choice, Images, Range, check_fields
from dit import latents
from dit.autoencoder import Autoencoder
from dit.sharding import MeshConfig, batch_sharding, make_mesh
from input_pipeline import records
from input_pipeline.image_files import ImageFiles
from input_pipeline.images import BrokenImageError, center_crop, decode
from input_pipeline.shards import ShardWriter, claimed, finished
from input_pipeline.splits import check_other_splits


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
  """Settings of the conversion from images to records.

  Attributes:
    image_size: Side of the square crop.
    dtype: Type of moments, 'float16' or 'float32'.
    batch_size: Number of images per call of the encoder, on each process.
    shard_records: Number S of images per shard.
    threads: Number of threads that read and crop images.
    max_broken: Number of unreadable images above which the command fails.
  """

  image_size: Annotated[int, Range(1, 16_384)]
  dtype: Annotated[str, Choice(records.CONTENTS['moments'])]
  batch_size: BatchSize
  shard_records: Annotated[int, Range(1, 10**8)]
  threads: Annotated[int, Range(1, 1024)]
  max_broken: Images

  def __post_init__(self) -> None:
    check_fields('--', self)


def layout_of(
  config: PrepareConfig,
  autoencoder: Autoencoder | None,
  flip: bool,
  channels: int = 3,
) -> records.Layout:
  """Returns the layout of records.

  Without an autoencoder, records have pixels in the given number of channels.
  """
  size = config.image_size
  if autoencoder is None:
    return records.Layout('pixels', (size, size, channels), 'uint8', False)
  if size % autoencoder.downsampling:
    raise InputError(
      f'--image_size is {size}, expected a multiple of '
      f'{autoencoder.downsampling}, by which the autoencoder downsamples.'
    )
  side = size // autoencoder.downsampling
  shape = (side, side, 2 * autoencoder.latent_channels)
  return records.Layout('moments', shape, config.dtype, flip)


def prepare(
  files: ImageFiles,
  autoencoder: Autoencoder | None,
  config: PrepareConfig,
  layout: records.Layout,
  folder: pathlib.Path,
  *,
  about: dict[str, Any],
  decoder: dict[str, str] | None = None,
) -> records.Metadata:
  """Writes missing records and the metadata of a split; returns the metadata.

  Args:
    files: Images.
    autoencoder: Autoencoder that encodes images; None to store pixels.
    config: Settings of the conversion.
    layout: Layout of the records, from `layout_of`.
    folder: Folder of the split.
    about: Entries of the protocol that describe the autoencoder.
    decoder: Location of the decoder; see `dit.latents.DecoderPlace`. A resumed
      command may change the location, but not the protocol.

  Raises:
    InputError: if the folder has records of another protocol, or cannot be
      written.
    PrepareError: if too many images are broken, latents are not finite, or the
      disk is full. The same command then resumes.
  """
  protocol = {
    **about,
    'images': files.name,
    'count': files.count,
    'classes': list(files.classes),
    'image_size': config.image_size,
    'crop': 'center',
    'shard_records': config.shard_records,
    'layout': dataclasses.asdict(layout),
  }
  protocol = json.loads(json.dumps(protocol))  # JSON turns tuples into lists
  with contextlib.ExitStack() as stack:
    with together():
      if jax.process_index() == 0:
        stack.enter_context(claimed(folder, protocol))
        # Another command may just have started a split with other classes.
        check_other_splits(folder)
    _check_shared(files, folder)
    encode = _encoder(autoencoder, config, layout)
    paths = _write_shards(files, encode, config, layout, folder)
    with together():
      return _complete(folder, paths, layout, protocol, autoencoder, decoder)


def _check_shared(files: ImageFiles, folder: pathlib.Path) -> None:
  """Raises PrepareError if processes see different images or folders."""
  with together():
    if not (folder / records.PROTOCOL).exists():
      raise PrepareError(
        f'process {jax.process_index()} does not see the protocol in {folder}: '
        'all processes must write to one folder that they share.'
      )
  counts = everywhere(files.count)[:, 0].tolist()
  if len(set(counts)) > 1:
    raise PrepareError(
      f'the processes find {counts} images in {files.name}: all must read the '
      'same.'
    )


def _write_shards(
  files: ImageFiles,
  encode: Callable[..., Iterator[tuple[np.ndarray, np.ndarray]]],
  config: PrepareConfig,
  layout: records.Layout,
  folder: pathlib.Path,
) -> Sequence[pathlib.Path]:
  """Writes the missing shards; returns the paths of all shards.

  After each shard, all processes exchange errors and counts of broken images.
  """
  process, processes = jax.process_index(), jax.process_count()
  size = config.shard_records
  channels = layout.shape[-1] if layout.content == 'pixels' else 3
  total = -(-files.count // size)
  paths = [folder / f'{k:05}-of-{total:05}.array_record' for k in range(total)]
  numbers = [
    range(files.count)[k * size : (k + 1) * size] for k in range(total)
  ]
  indices = {k for k in range(total) if not finished(paths[k])}
  count = files.count - sum(len(numbers[k]) for k in indices)
  failures = 0

  def write(k):
    with ShardWriter(paths[k], layout, len(files.classes)) as shard:
      images = _images(files, config, channels, numbers[k], shard.broken)
      for labels, arrays in encode(images):
        shard.write(labels, arrays)
        # This count assumes that all processes have the same speed.
        progress(count + processes * shard.records)
        _check_broken(failures + len(shard.broken), config, shard.broken)

  with image_progress(
    files.count, count, 'prepare', compiles=layout.content != 'pixels'
  ) as progress:
    for k in range(process, total + process, processes):
      additions = 0
      names: Sequence[str] = ()
      with together():
        if k in indices:
          write(k)
          additions = len(numbers[k])
        if k < total and (shard := finished(paths[k])):
          names = shard.broken
      additions, omissions = everywhere(additions, len(names)).sum(0).tolist()
      count, failures = count + additions, failures + omissions
      progress(count)
      _check_broken(failures, config, names)
  return paths


def _check_broken(
  count: int, config: PrepareConfig, names: Sequence[str]
) -> None:
  if count > config.max_broken:
    raise PrepareError(
      f'{count} images are broken, more than --max_broken='
      f'{config.max_broken}; the last: {"; ".join(names[-3:])}. Fix or remove '
      'them, or raise the limit.'
    )


def _images(
  files: ImageFiles,
  config: PrepareConfig,
  channels: int,
  numbers: range,
  failures: list[str],
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields labels and crops; appends names of broken images to `failures`."""

  def load(i):
    try:
      file = files.read(i)
      try:
        image = decode(file.load(), channels)
        return file, center_crop(image, config.image_size)
      except BrokenImageError as error:
        return file, str(error)
      except MemoryError:
        return file, 'it takes more memory than there is'
    # zipfile raises RuntimeError for an entry that it cannot unpack.
    except (OSError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
      raise PrepareError(
        f'image {i} of {files.name} cannot be read ({error}); repair it, and '
        'run the same command again.'
      ) from error

  pairs = (
    grain.MapDataset.range(numbers.start, numbers.stop)
    .map(load)
    .to_iter_dataset(
      grain.ReadOptions(
        num_threads=config.threads,
        prefetch_buffer_size=2 * max(config.batch_size, config.threads),
      )
    )
  )
  for file, image in pairs:
    if isinstance(image, str):
      failures.append(file.name)
      logging.warning('Left out %s, which is broken: %s', file.name, image)
    else:
      yield file.label, image


def _encoder(
  autoencoder: Autoencoder | None,
  config: PrepareConfig,
  layout: records.Layout,
) -> Callable[..., Iterator[tuple[np.ndarray, np.ndarray]]]:
  """Returns a function from (label, image) pairs to batches of records."""
  if autoencoder is None:
    return lambda images: (
      (np.asarray([label]), image[None, None]) for label, image in images
    )
  mesh = make_mesh(MeshConfig(), jax.local_devices())
  sharding = batch_sharding(mesh)

  @jax.jit
  def moments(autoencoder, image):
    x = latents.from_pixels(image)
    views = [x, x[:, :, ::-1]] if layout.flip else [x]
    posteriors = [autoencoder.encode(x).stored() for x in views]
    return jnp.stack(posteriors, axis=1).astype(layout.dtype)

  def start(rows):
    labels, images = map(np.asarray, zip(*rows, strict=True))
    padding = config.batch_size - len(images)
    images = np.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0)))
    return labels, moments(autoencoder, jax.device_put(images, sharding))

  def encode(images):
    batches = iter(lambda: [*itertools.islice(images, config.batch_size)], [])
    for labels, arrays in one_ahead(map(start, batches)):
      yield labels, np.asarray(arrays)[: len(labels)]

  return encode


def _complete(
  folder: pathlib.Path,
  paths: Sequence[pathlib.Path],
  layout: records.Layout,
  protocol: dict[str, Any],
  autoencoder: Autoencoder | None,
  decoder: dict[str, str] | None,
) -> records.Metadata:
  """Checks that all shards exist and writes the metadata."""
  states = [finished(path) for path in paths]
  if gaps := [p.name for p, s in zip(paths, states, strict=True) if not s]:
    raise PrepareError(
      f'shards {", ".join(gaps[:5])} are missing in {folder}: all processes '
      'must write to one folder that they share.'
    )
  normalization = (
    latents.Normalization()
    if autoencoder is None
    else autoencoder.normalization
  )
  shards = tuple(filter(None, states))
  metadata = records.Metadata(
    layout,
    protocol,
    tuple(protocol['classes']),
    normalization,
    shards,
    decoder,
  )
  if not metadata.records:
    raise PrepareError(f'{folder}: not one image could be read.')
  write_json(folder / records.METADATA, metadata.to_json())
  return metadata
