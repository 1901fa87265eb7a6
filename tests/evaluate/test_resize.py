import jax
import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from evaluate.inception import SIZE
from evaluate.resize import PRESETS, preprocess, resize_matrix

SHAPES = [(64, 64), (256, 256), (400, 80)]


def images_of(shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (1, *shape, 3), dtype=np.uint8)


@pytest.mark.parametrize('shape', SHAPES)
def test_clean_fid_is_pillows_bicubic(shape):
  images = images_of(shape)
  expected = [
    Image.fromarray(channel.astype(np.float32), mode='F').resize(
      (SIZE, SIZE), Image.Resampling.BICUBIC
    )
    for channel in images[0].transpose(2, 0, 1)
  ]
  ours = preprocess(images, 'clean_fid') * 128 + 128
  expected = np.stack(expected, -1)
  assert expected.min() < -1 and expected.max() > 256  # clean-fid clips these.
  np.testing.assert_allclose(ours[0], expected.clip(0, 255), atol=1e-3)


@pytest.mark.parametrize('shape', SHAPES)
def test_pytorch_fid_samples_between_centers_without_antialiasing(shape):
  images, size = images_of(shape).astype(np.float32), (1, SIZE, SIZE, 3)
  expected = jax.image.resize(images, size, 'linear', antialias=False)
  ours = (preprocess(images, 'pytorch_fid') + 1) * 127.5
  np.testing.assert_allclose(ours, expected, atol=0.01)


@pytest.mark.parametrize('size', [8, 64, 256, 600])
def test_tensorflow_samples_at_corners(size):
  """TensorFlow interpolates output pixel i at input position i * size / 299."""
  line = np.random.default_rng(1).normal(size=size)
  at = np.minimum(np.arange(SIZE) * size / SIZE, size - 1)
  expected = np.interp(at, np.arange(size), line)
  ours, theirs = (resize_matrix(size, p) for p in ('adm', 'torch_fidelity'))
  np.testing.assert_allclose(ours @ line, expected, atol=3e-4)
  np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize('preset', PRESETS)
def test_images_of_the_right_size_stay(preset):
  images = images_of((SIZE, SIZE)).astype(np.float32)
  scaled = (images - 128) / 128
  if preset == 'pytorch_fid':
    scaled = images / 127.5 - 1
  np.testing.assert_allclose(preprocess(images, preset), scaled, atol=1e-5)


@pytest.mark.parametrize('preset', PRESETS)
def test_gray_is_three_times_the_same(preset):
  gray = images_of((32, 32))[..., :1]
  ours, color = (preprocess(x, preset) for x in (gray, gray.repeat(3, -1)))
  np.testing.assert_allclose(ours, color, atol=1e-6)


def test_unknown_preset():
  with pytest.raises(InputError, match='adm'):
    preprocess(images_of((8, 8)), 'tf')
