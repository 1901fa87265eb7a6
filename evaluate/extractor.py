"""Feature extractors, which run on all devices.

An `Extractor` has a pure function of parameters and a batch of images, and a
description for the results. Only distances between features of the published
Inception are called FID. Other distances are named after their extractor.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from core.errors import InputError
from core.overlap import one_ahead
from dit import latents, model
from dit.sharding import batch_sharding, check_batch, replicated
from evaluate import classifier, inception
from evaluate.inception import Features
from evaluate.resize import USUAL, preprocess

# A PyTorch port of FID's Inception that pytorch-fid and torch-fidelity publish.
URL = (
  'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/'
  'weights-inception-2015-12-05-6726825d.pth'
)
SHA256 = '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2'
_LARGE, _SIDE = 32, 16  # image sides above `_LARGE` become about `_SIDE`


class Kind(NamedTuple):
  """Properties of an extractor that its name determines; see `Extractor`."""

  name: str
  is_inception: bool = False
  reads_classes: bool = False


@dataclasses.dataclass(frozen=True)
class Extractor:
  """A map from images to features.

  Attributes:
    name: Name of the features in results.
    apply: Pure function from parameters and images (B, H, W, C) float32 in
      [0, 255] to `Features`.
    params: Parameters, a pytree of arrays.
    about: Description for results: preprocessing, weights and their hash.
    is_inception: Whether Inception Score and sFID can be computed.
    published: Whether distances may be called FID.
    reads_classes: Whether the logits predict the classes of the dataset.
  """

  name: str
  apply: Callable[[Any, jax.Array], Features]
  params: Any
  about: Mapping[str, Any]
  is_inception: bool = False
  published: bool = False
  reads_classes: bool = False

  def protocol(self) -> dict[str, Any]:
    """Returns a description of the extractor, with a hash, as JSON values."""
    return {
      'name': self.name,
      **self.about,
      'parameters_sha256': model.fingerprint(self.params),
    }

  def identity(self) -> dict[str, Any]:
    """Returns the values that identify the features, without file names."""
    preprocessing = self.about.get('preprocessing')
    return {
      'preprocessing': USUAL[0] if preprocessing in USUAL else preprocessing,
      'parameters_sha256': model.fingerprint(self.params),
      'code_sha256': self.about.get('code_sha256'),
    }

  def width(self, shape: tuple[int, int, int]) -> int:
    """Infers the number of features of an image from its shape (H, W, C)."""
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    return jax.eval_shape(self.apply, self.params, image).pool.shape[-1]

  def __call__(
    self, batches: Iterable[np.ndarray], mesh: Mesh, batch_size: int
  ) -> Iterator[Features]:
    """Yields features of images in order, as numpy arrays of `batch_size` rows.

    Batches (n, H, W, C), uint8 or float32 in [0, 255], may have any size n.
    Reading overlaps with computation. The last array may have fewer rows. Every
    process reads all images, processes a share, and receives all features.
    """
    check_batch(mesh, batch_size, 'eval.batch_size')
    program = _program(self.apply, mesh)
    params = jax.device_put(self.params, replicated(mesh))

    def run(images):
      batch = np.pad(
        images, [(0, batch_size - len(images)), *[(0, 0)] * 3], mode='edge'
      )
      array = jax.make_array_from_callback(
        batch.shape, batch_sharding(mesh), batch.__getitem__
      )
      return program(params, array), len(images)

    for result in one_ahead(map(run, _rebatch(batches, batch_size))):
      yield _read(*result)


@functools.cache
def _program(apply: Callable, mesh: Mesh) -> Callable:
  """Compiles an extractor; every device receives all results."""

  def run(params, images):
    features = apply(params, images.astype(jnp.float32))
    return jax.tree.map(lambda x: x.astype(jnp.float32), features)

  return jax.jit(run, out_shardings=replicated(mesh))


def _read(features: Features, count: int) -> Features:
  return jax.tree.map(lambda x: np.asarray(x)[:count], features)


def _rebatch(batches: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
  """Yields the images of all batches in batches of `size`."""
  parts, count = [], 0
  for images in batches:
    while len(images):
      part, images = images[: size - count], images[size - count :]
      parts.append(part)
      count += len(part)
      if count == size:
        yield np.concatenate(parts)
        parts, count = [], 0
  if parts:
    yield np.concatenate(parts)


def inception_extractor(
  tensors: Mapping[str, np.ndarray],
  *,
  preprocessing: str = 'adm',
  about: Mapping[str, Any],
) -> Extractor:
  """Returns the Inception extractor of FID.

  `tensors` are the tensors of a weights file, and `about` has the file's name
  and SHA-256. `preprocessing` is one of `resize.PRESETS`. Raises InputError if
  the tensors belong to another network.
  """
  is_fid = SHA256 in (about.get('sha256'), about.get('source_sha256'))
  return Extractor(
    'Inception',
    _inception(preprocessing),
    inception.from_published(tensors),
    {'preprocessing': preprocessing, **about},
    is_inception=True,
    published=is_fid,
  )


@functools.cache
def _inception(preprocessing: str) -> Callable[[Any, jax.Array], Features]:
  def apply(params, images):
    return inception.apply(params, preprocess(images, preprocessing))

  return apply


def classifier_extractor(
  network: classifier.Classifier, about: Mapping[str, Any]
) -> Extractor:
  """Returns the extractor of a classifier trained on the dataset."""
  return Extractor(
    f'classifier of {about["data"]}',
    _classifier(network.shape, network.num_classes),
    network.params,
    about,
    reads_classes=True,
  )


@functools.cache
def _classifier(
  shape: tuple[int, int, int], num_classes: int
) -> Callable[[Any, jax.Array], Features]:
  graph = classifier.graph_of(shape, num_classes)

  def apply(params, images):
    if images.shape[1:3] != shape[:2]:
      raise InputError(
        f'the classifier expects {shape[0]} x {shape[1]} images, but these are '
        f'{images.shape[1]} x {images.shape[2]}.'
      )
    if shape[-1] == 1:  # gray images may be stored with three channels
      images = images.mean(-1, keepdims=True)
    images = jnp.broadcast_to(images, (*images.shape[:3], shape[-1]))
    features, logits = nnx.merge(graph, params)(latents.from_pixels(images))
    return Features(features, None, logits)

  return apply


def pixels_extractor() -> Extractor:
  """Returns an extractor of pixels in [-1, 1].

  Averaging reduces images with a side above 32 to about 16 x 16 pixels. Without
  this reduction, the covariance of 256 x 256 pixels would take 288 GiB.
  """
  return Extractor('pixels', _pixels, {}, {})


def _pixels(params: Any, images: jax.Array) -> Features:
  del params
  n, height, width, channels = images.shape
  if max(height, width) > _LARGE:
    h, w = (max(side // _SIDE, 1) for side in (height, width))
    rows, columns = height // h, width // w
    squares = images[:, : rows * h, : columns * w]
    images = squares.reshape(n, rows, h, columns, w, channels).mean((2, 4))
  return Features(images.reshape(n, -1) / 127.5 - 1)


def user_extractor(
  name: str, function: Callable[[jax.Array], Any], about: Mapping[str, Any]
) -> Extractor:
  """Wraps a user's function as an extractor.

  The function maps images (B, H, W, C) float32 in [0, 255] to features (B, F),
  and is jitted. `name` and `about` describe the features in results.
  """

  def apply(params, images):
    del params
    try:
      features = function(images)
    except Exception as error:  # the user's function may raise any error
      raise InputError(
        f'extractor {name} does not run: {type(error).__name__}: '
        f'{" ".join(str(error).split())[:200]}.'
      ) from error
    shape = np.shape(features) if isinstance(features, jax.Array) else ()
    if len(shape) != 2 or shape[0] != len(images):
      raise InputError(
        f'extractor {name} gives {shape or type(features).__name__} for '
        f'{len(images)} images, expected an array ({len(images)}, F).'
      )
    return Features(features)

  return Extractor(name, apply, {}, about)
