"""Features do not depend on the batch size, devices or processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from dit.sharding import MeshConfig, make_mesh
from evaluate import extractor as extractors
from evaluate.metrics import Gatherer, MeasureConfig, estimate

METRICS = ('fd', 'kid', 'precision', 'recall')
CONFIG = MeasureConfig(kid_subset_size=50, kid_subsets=5)


def features_of(images):
  """Returns mean and mean square of each quarter of an image."""
  n, h, w, c = images.shape
  x = images.reshape(n, 2, h // 2, 2, w // 2, c) / 255
  moments = [x.mean((2, 4)), (x**2).mean((2, 4))]
  return jnp.concatenate([y.reshape(n, -1) for y in moments], 1)


@pytest.fixture(scope='module')
def extractor():
  return extractors.user_extractor('moments', features_of, {})


def mesh_of(count):
  return make_mesh(MeshConfig(), jax.devices()[:count])


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  low = rng.integers(0, 100, (2, 150, 1, 1, 3))
  return (low + rng.integers(0, 156, (2, 150, 8, 8, 3))).astype(np.uint8)


def gathered(extractor, images, sizes=(150,), devices=1, batch_size=32):
  pieces = np.split(images, np.cumsum(sizes)[:-1])
  batches = extractor(pieces, mesh_of(devices), batch_size)
  return np.concatenate([batch.pool for batch in batches])


def metrics(extractor, images, devices=1, batch_size=32):
  summaries = []
  for part in images:
    gatherer = Gatherer(CONFIG, METRICS)
    for batch in extractor([part], mesh_of(devices), batch_size):
      gatherer.add(batch)
    summaries.append(gatherer.summary())
  sample, reference = summaries
  found = estimate([sample], reference, CONFIG, METRICS)
  return [found[name].value for name in METRICS]


def test_features_are_those_of_the_function(extractor, images):
  ours = gathered(extractor, images[0])
  np.testing.assert_allclose(
    ours, features_of(images[0].astype(np.float32)), rtol=1e-5
  )


@pytest.mark.parametrize('sizes', [(150,), (1, 100, 49), (64, 64, 22)])
@pytest.mark.parametrize('batch_size', [32, 256])
def test_batches_change_nothing(extractor, images, sizes, batch_size):
  np.testing.assert_allclose(
    gathered(extractor, images[0], sizes, batch_size=batch_size),
    gathered(extractor, images[0]),
    rtol=1e-6,
  )


def test_one_device_and_eight_agree(extractor, images):
  one, eight = (metrics(extractor, images, devices) for devices in (1, 8))
  np.testing.assert_allclose(one, eight, rtol=1e-6)


def test_order_of_images_does_not_matter(extractor, images):
  order = np.random.default_rng(1).permutation(150)
  found = metrics(extractor, images[:, order])
  expected = metrics(extractor, images)
  at = [METRICS.index(name) for name in ('fd', 'precision', 'recall')]
  np.testing.assert_allclose(  # The subsets of KID depend on the order.
    np.take(found, at), np.take(expected, at), rtol=1e-6
  )


@pytest.mark.slow
def test_inception_on_one_device_and_eight():
  import inception_weights

  extractor = extractors.inception_extractor(
    inception_weights.tensors(), about={}
  )
  rng = np.random.default_rng(2)
  images = rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
  one, eight = (
    next(extractor([images], mesh_of(devices), 16)) for devices in (1, 8)
  )
  for ours, other in zip(one, eight, strict=True):
    distance = np.linalg.norm(ours - other) / np.linalg.norm(ours)
    assert distance < 1e-6


@pytest.mark.parametrize(
  'function', [lambda x: x, lambda x: x.mean((1, 2))[:3], lambda x: x.mean()]
)
def test_features_of_a_wrong_shape(images, function):
  extractor = extractors.user_extractor('mine', function, {})
  with pytest.raises(InputError, match=r'extractor mine .* \(32, F\)'):
    gathered(extractor, images[0])


@pytest.mark.parametrize(
  'function', [lambda x: [x], lambda x: np.ones((32, 3)), lambda x: x['pool']]
)
def test_functions_that_are_no_extractor(images, function):
  extractor = extractors.user_extractor('mine', function, {})
  with pytest.raises(InputError, match='extractor mine'):
    gathered(extractor, images[0])


def test_batch_must_divide(extractor, images):
  with pytest.raises(InputError, match=r'eval\.batch_size'):
    gathered(extractor, images[0], devices=8, batch_size=12)


@pytest.mark.parametrize(('side', 'kept'), [(32, 32), (33, 16), (256, 16)])
def test_pixels_of_large_images_are_means(side, kept):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4, side, side, 3)).astype(np.uint8)
  (features,) = extractors.pixels_extractor()([images], mesh_of(1), 4)
  block = side // kept
  x = images[:, : kept * block, : kept * block]
  x = x.reshape(4, kept, block, kept, block, 3).mean((2, 4))
  expected = x.reshape(4, -1) / 127.5 - 1
  np.testing.assert_allclose(features.pool, expected, atol=1e-6)
