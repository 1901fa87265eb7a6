"""Image files of every kind become upright square RGB arrays."""

import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from train.data.images import BrokenImageError, center_crop, decode

SAMPLE = (
  pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'imagenet1k_sample'
)


def file_of(image, form='PNG', **options):
  data = io.BytesIO()
  image.save(data, form, **options)
  return data.getvalue()


def gradient(height=6, width=9):
  """Red grows to the right, green downwards."""
  y, x = np.mgrid[:height, :width]
  image = np.stack([x * 20, y * 30, 0 * x + 7], axis=-1)
  return image.astype(np.uint8)


def test_rgb_is_kept():
  image = gradient()
  np.testing.assert_array_equal(decode(file_of(Image.fromarray(image))), image)


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'LA', '1', 'CMYK'])
def test_modes_become_rgb(mode):
  form = 'TIFF' if mode == 'CMYK' else 'PNG'
  source = Image.fromarray(gradient()).convert(mode)
  decoded = decode(file_of(source, form))
  assert decoded.mode == 'RGB'
  np.testing.assert_array_equal(decoded, source.convert('RGB'))


def test_grey_has_three_equal_channels():
  grey = gradient()[..., 0]
  decoded = np.asarray(decode(file_of(Image.fromarray(grey))))
  for channel in range(3):
    np.testing.assert_array_equal(decoded[..., channel], grey)


def test_cmyk_jpeg_has_its_colours():
  colour = Image.new('RGB', (16, 16), (200, 30, 90))
  data = file_of(colour.convert('CMYK'), 'JPEG', quality=95)
  middle = np.asarray(decode(data))[8, 8]
  np.testing.assert_allclose(middle, (200, 30, 90), atol=4)


def test_sixteen_bits_are_scaled():
  values = np.asarray([[0, 257, 32768], [65535, 1000, 256]], np.uint16)
  decoded = np.asarray(decode(file_of(Image.fromarray(values))))
  expected = np.round(values / 257)
  np.testing.assert_array_equal(decoded[..., 0], expected)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_rotation_is_carried_out(orientation):
  upright = Image.fromarray(gradient())
  turns = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
  }
  stored = upright
  if orientation in turns:
    stored = upright.transpose(turns[orientation])
  exif = Image.Exif()
  exif[0x0112] = orientation
  np.testing.assert_array_equal(decode(file_of(stored, exif=exif)), upright)


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'no image',
    bytes(1000),
    file_of(Image.fromarray(gradient()), 'JPEG')[:-40],
    file_of(Image.fromarray(gradient(64, 64)), 'PNG')[:-30],
  ],
)
def test_broken_files_are_refused(data):
  with pytest.raises(BrokenImageError):
    decode(data)


def noise(height, width):
  rng = np.random.default_rng(0)
  return rng.integers(256, size=(height, width, 3), dtype=np.uint8)


def halved(image):
  """Means of two columns, then of two rows, each rounded half up."""
  image = image.astype(int)
  image = (image[:, ::2] + image[:, 1::2] + 1) // 2
  return (image[::2] + image[1::2] + 1) // 2


def test_twice_the_size_is_averaged():
  image = noise(64, 64)
  crop = center_crop(Image.fromarray(image), 16)
  assert crop.dtype == np.uint8
  np.testing.assert_array_equal(crop, halved(halved(image)))


def test_the_centre_is_cut_out():
  image = noise(32, 70)  # halved to 16 x 35
  crop = center_crop(Image.fromarray(image), 16)
  np.testing.assert_array_equal(crop, halved(image)[:, 9:25])
  tall = center_crop(Image.fromarray(image.swapaxes(0, 1)), 16)
  np.testing.assert_array_equal(tall, halved(image)[:, 9:25].swapaxes(0, 1))


@pytest.mark.parametrize('height, width', [(31, 31), (7, 9), (40, 17)])
def test_the_rest_is_bicubic(height, width):
  image = Image.fromarray(noise(height, width))
  scale = 16 / min(height, width)
  size = round(width * scale), round(height * scale)
  resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
  top, left = (size[1] - 16) // 2, (size[0] - 16) // 2
  expected = resized[top : top + 16, left : left + 16]
  np.testing.assert_array_equal(center_crop(image, 16), expected)


def test_image_of_the_size_is_not_touched():
  image = gradient(9, 9)
  np.testing.assert_array_equal(center_crop(Image.fromarray(image), 9), image)


def test_imagenet_files():
  if not SAMPLE.exists():
    pytest.skip('shared/data/imagenet1k_sample is absent')
  for about in json.loads((SAMPLE / 'manifest.json').read_text()):
    if about['mode'] == 'L' or about['width'] < 256:
      image = decode((SAMPLE / about['file']).read_bytes())
      assert image.size == (about['width'], about['height'])
      crop = center_crop(image, 256)
      assert crop.shape == (256, 256, 3)
      assert (crop == crop[..., :1]).all() == (about['mode'] == 'L')
