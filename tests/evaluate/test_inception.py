"""The FID Inception network with generated weights matches torch-fidelity."""

import inception_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from jax import lax

from core.errors import InputError
from evaluate import inception
from evaluate.resize import preprocess

# In the reference, float32 and float64 results differ by up to 6e-7.
TOLERANCE = 1e-5


def distance(ours, golden):
  golden = np.asarray(golden, np.float64)
  return np.linalg.norm(ours - golden) / np.linalg.norm(golden)


@pytest.fixture(scope='module')
def tensors():
  return inception_weights.tensors()


def test_golden(tensors):
  params = inception.from_published(tensors)
  graph = nnx.split(nnx.eval_shape(inception.Inception))[0]
  golden = reference.read('inception/io.npz')

  @jax.jit
  def run(params, x):
    network = nnx.merge(graph, params)
    return network(x), dict(network.blocks(x))

  for size in ('img64x64', 'img299x299'):
    images = golden[f'{size}/uint8_nhwc']
    x = preprocess(images, 'adm')
    features, blocks = run(params, x)
    known = f'{size}/tf_resize'
    resized = np.asarray(x[0] * 128 + 128)
    diagonal = np.arange(inception.SIZE)
    for name, rows in (
      ('row0', resized[0]), ('col0', resized[:, 0]),
      ('diag', resized[diagonal, diagonal]),
    ):  # fmt: skip
      if f'{known}/resized_{name}' in golden:  # only for 64 x 64 images
        expected = golden[f'{known}/resized_{name}']
        np.testing.assert_allclose(rows.T, expected, atol=3e-4)
    for name, values in (
      ('64', blocks['MaxPool_1'].mean((1, 2))),
      ('192', blocks['MaxPool_2'].mean((1, 2))),
      ('768', blocks['Mixed_6e'].mean((1, 2))),
      ('2048', features.pool),
      ('logits_unbiased', features.logits),
      ('logits', features.logits + tensors['fc.bias']),
      ('sfid_spatial_nhwc', features.spatial),
    ):
      found = distance(values, golden[f'{known}/{name}'])
      assert found < TOLERANCE, (size, name, found)
    for name, values in blocks.items():
      if f'{known}/corner/{name}' in golden:
        corner = values[0, :3, :3, :8].transpose(2, 0, 1)
        found = distance(corner, golden[f'{known}/corner/{name}'])
        assert found < TOLERANCE, (size, name, found)
        np.testing.assert_allclose(
          [values.mean(), values.std(), abs(values).max()],
          golden[f'{known}/stats/{name}'],
          rtol=1e-4,
        )
    features, _ = run(params, preprocess(images, 'pytorch_fid'))
    found = distance(features.pool, golden[f'{size}/pytorch_fid/2048'])
    assert found < TOLERANCE, (size, found)
    # The features of the two preprocessing methods must differ.
    apart = distance(features.pool, golden[f'{known}/2048'])
    assert apart > 100 * TOLERANCE, (size, apart)


@pytest.mark.parametrize(('size', 'stride', 'same', 'side'), [
  ((3, 3), 1, True, 75),
  ((3, 3), 1, False, 76),
  ((3, 3), 2, False, 75),
  ((1, 7), 1, True, 76),
  ((7, 1), 2, False, 76),
])  # fmt: skip
def test_columns_in_pairs_are_the_same_convolution(size, stride, same, side):
  x = jax.random.normal(jax.random.key(0), (1, 9, side, 5))
  kernel = jax.random.normal(jax.random.key(1), (*size, 5, 4))
  pads = [(n // 2,) * 2 if same else (0, 0) for n in size]
  expected = lax.conv_general_dilated(
    x, kernel, (stride,) * 2, pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  ours = inception._convolve(x, kernel, stride, same)
  np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_pooling_leaves_the_padding_out():
  ones = jnp.ones((1, 4, 4, 1))
  np.testing.assert_array_equal(inception._pool_mean(ones), ones)
  np.testing.assert_array_equal(inception._pool_max(-ones, 1), -ones)


@pytest.mark.parametrize(('change', 'words'), [
  (lambda t: t.pop('fc.weight'), 'fc.weight is missing'),
  (lambda t: t.update({'fc.weight': np.ones((3, 2))}), r'has \(3, 2\)'),
  (lambda t: t.update({'AuxLogits.fc.bias': np.ones(2)}), 'AuxLogits'),
])  # fmt: skip
def test_other_networks_are_refused(tensors, change, words):
  tensors = dict(tensors)
  change(tensors)
  with pytest.raises(InputError, match=words):
    inception.from_published(tensors)
