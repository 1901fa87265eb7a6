"""Reads or decodes the real images of a split as a reference.

If the records are latents, the decoder of the samples also decodes the latents'
posterior means. Distances to these images exclude the error of the autoencoder.
Published distances use the original images, which `--reference` accepts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from core.errors import InputError
from core.progress import image_progress
from dit import latents
from dit.autoencoder import Autoencoder
from dit.latents import Posterior
from dit.sharding import batch_sharding, check_batch, replicated
from evaluate.image_sets import CHUNK, ImageSet
from input_pipeline.records import LatentSource
from input_pipeline.sources import (
  DataConfig,
  image_of,
  latent_space_of,
  open_source,
)
from sample.decoder import read_decoder

# Memory limit: 699,050 RGB images of 32 x 32, or 10,922 images of 256 x 256.
MOST_BYTES = 2**31
Read = Callable[[list[int]], tuple[np.ndarray, np.ndarray]]


def decoder_of(
  data: DataConfig, autoencoder: str | None, mesh: Mesh
) -> Autoencoder | None:
  """Returns the decoder of a dataset's latents; None for a dataset of images.

  `autoencoder` is a name or path, as in `dit.autoencoder.files`. None selects
  the autoencoder in the metadata of the dataset.
  """
  if data.autoencoder == 'pixels':
    return None
  source = open_source(data, data.train_split)
  if not isinstance(source, LatentSource):
    raise InputError(
      f'data.autoencoder is {data.autoencoder}, but {data.name} holds images; '
      'set data.autoencoder=pixels.'
    )
  channels = source.metadata.layout.latent_shape[-1]
  space = latent_space_of(source, data)
  return read_decoder(autoencoder, channels, space, mesh)


@dataclasses.dataclass(frozen=True)
class RealData:
  """Training split of a dataset, which is the default source of real images.

  Attributes:
    config: Settings of the dataset.
    num_classes: Number of classes.
    decoder: Decoder of latents; None if records are images.
    records: Records of the split, or None if the split is not yet open.
  """

  config: DataConfig
  num_classes: int
  decoder: Autoencoder | None = None
  records: Any = None

  @functools.cached_property
  def source(self) -> Any:
    """Records of the split, opened at their first use."""
    if self.records is not None:
      return self.records
    return open_source(self.config, self.config.train_split)

  def images(self, mesh: Mesh, batch_size: int) -> ImageSet:
    """Returns the images; the decoder decodes `batch_size` images per call."""
    reader = _reader(self.source, self.decoder, mesh, batch_size)
    count = len(self.source)

    def batches():
      for start in range(0, count, CHUNK):
        yield reader(list(range(start, min(start + CHUNK, count))))[0]

    suffix = ', decoded' if self.decoder else ''
    name = f'{self.config.name}:{self.config.train_split}{suffix}'
    return ImageSet(name, count, None, True, batches)


def load_images(
  source: Any,
  decoder: Autoencoder | None,
  mesh: Mesh,
  batch_size: int,
  most_bytes: int = MOST_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
  """Loads images (n, H, W, C) uint8 and labels (n,) int32 into memory.

  `decoder` decodes `batch_size` latents per call; it is None if records are
  images. A split that needs more memory than `most_bytes` is subsampled with a
  fixed seed.
  """
  reader = _reader(source, decoder, mesh, batch_size)
  example, _ = reader([0])
  count = min(len(source), max(most_bytes // example.nbytes, 1))
  numbers = list(range(len(source)))
  if count < len(source):
    logging.info(
      'Using %d of %d images, chosen at random, which fill %.1f GiB.',
      count, len(source), most_bytes / 2**30,
    )  # fmt: skip
    numbers = sorted(
      np.random.default_rng(0).permutation(len(source))[:count].tolist()
    )
  images = np.empty((count, *example.shape[1:]), np.uint8)
  labels = np.empty(count, np.int32)
  decodes = decoder is not None
  with image_progress(count, 0, 'real images', compiles=decodes) as progress:
    for start in range(0, count, batch_size):
      part = slice(start, start + batch_size)
      batch, labels[part] = reader(numbers[part])
      images[part] = _stack([example[0], *batch])[1:]
      progress(min(start + batch_size, count))
  return images, labels


def _reader(
  source: Any, decoder: Autoencoder | None, mesh: Mesh, batch_size: int
) -> Read:
  """Returns a function that maps record indices to images and labels."""
  is_latent = 'moments' in source[0]
  if is_latent and decoder is None:
    raise InputError(
      'these records are latents, and images are needed: give their '
      'decoder, --autoencoder=NAME:FILE[,FILE].'
    )
  if is_latent:
    check_batch(mesh, batch_size, 'eval.batch_size')
  decode = jax.jit(_decode, out_shardings=replicated(mesh))

  def read(numbers):
    records = [source[i] for i in numbers]
    labels = np.asarray([record['label'] for record in records], np.int32)
    if not is_latent:
      return _stack([image_of(record) for record in records]), labels
    moments = np.stack([record['moments'][0] for record in records])
    images = []
    for start in range(0, len(moments), batch_size):
      part = moments[start : start + batch_size]
      rows = np.pad(part, [(0, batch_size - len(part))] + [(0, 0)] * 3)
      rows = jax.device_put(rows, batch_sharding(mesh))
      images.append(np.asarray(decode(decoder, rows))[: len(part)])
    return np.concatenate(images), labels

  return read


def _stack(images: list[np.ndarray]) -> np.ndarray:
  """Stacks images, or raises InputError if their shapes differ."""
  for image in images:
    if image.shape != images[0].shape:
      raise InputError(
        f'images have shapes {images[0].shape} and {image.shape}; resize them '
        'to one size: python main.py prepare.'
      )
  return np.stack(images)


def _decode(autoencoder: Autoencoder, moments: jax.Array) -> jax.Array:
  """Decodes the means of posteriors to uint8 images."""
  mean = Posterior.from_stored(moments.astype(np.float32)).mean
  return latents.to_pixels(autoencoder.decode(mean))
