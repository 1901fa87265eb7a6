"""Image files of any format become upright, square RGB arrays."""

import io
import itertools
import json
import struct
import zlib

import numpy as np
import pytest
from command_runs import ROOT
from PIL import Image

from input_pipeline import images
from input_pipeline.images import BrokenImageError, center_crop, decode

SAMPLE = ROOT.parent / 'shared' / 'data' / 'imagenet1k_sample'


def file_of(image, form='PNG', **options):
  data = io.BytesIO()
  image.save(data, form, **options)
  return data.getvalue()


def gradient(height=6, width=9):
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


def test_gray_has_three_equal_channels():
  gray = gradient()[..., 0]
  decoded = np.asarray(decode(file_of(Image.fromarray(gray))))
  np.testing.assert_array_equal(decoded, gray[..., None].repeat(3, -1))


def test_cmyk_jpeg_has_its_colors():
  color = Image.new('RGB', (16, 16), (200, 30, 90))
  data = file_of(color.convert('CMYK'), 'JPEG', quality=95)
  middle = np.asarray(decode(data))[8, 8]
  np.testing.assert_allclose(middle, (200, 30, 90), atol=4)


def test_sixteen_bits_are_scaled():
  values = np.asarray([[0, 257, 32768], [65535, 1000, 256]], np.uint16)
  decoded = np.asarray(decode(file_of(Image.fromarray(values))))
  np.testing.assert_array_equal(decoded[..., 0], np.round(values / 257))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_rotation_is_carried_out(orientation):
  upright = Image.fromarray(gradient())
  turns = ('FLIP_LEFT_RIGHT', 'ROTATE_180', 'FLIP_TOP_BOTTOM', 'TRANSPOSE',
           'ROTATE_90', 'TRANSVERSE', 'ROTATE_270')  # fmt: skip
  stored = upright
  if orientation > 1:
    stored = upright.transpose(Image.Transpose[turns[orientation - 2]])
  exif = Image.Exif()
  exif[0x0112] = orientation
  np.testing.assert_array_equal(decode(file_of(stored, exif=exif)), upright)


@pytest.mark.parametrize('data', [
  b'',
  b'no image',
  bytes(1000),
  file_of(Image.fromarray(gradient()), 'JPEG')[:-40],
  file_of(Image.fromarray(gradient(64, 64)), 'PNG')[:-30],
])  # fmt: skip
def test_broken_files_are_refused(data):
  with pytest.raises(BrokenImageError):
    decode(data)


def noise(height, width):
  rng = np.random.default_rng(0)
  return rng.integers(256, size=(height, width, 3), dtype=np.uint8)


def halved(image):
  """Averages pairs of columns, then pairs of rows. Rounds x.5 up."""
  image = image.astype(int)
  image = (image[:, ::2] + image[:, 1::2] + 1) // 2
  return (image[::2] + image[1::2] + 1) // 2


def test_twice_the_size_is_averaged():
  image = noise(64, 64)
  crop = center_crop(Image.fromarray(image), 16)
  assert crop.dtype == np.uint8
  np.testing.assert_array_equal(crop, halved(halved(image)))


def test_the_center_is_cut_out():
  image = noise(32, 70)  # The halved image is 16 x 35.
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


@pytest.mark.parametrize(
  'form', ['PPM', 'TGA', 'PDF', 'EPS', 'ICO', 'PCX', 'JPEG2000']
)
def test_only_the_supported_formats_are_opened(form, monkeypatch):
  data = file_of(Image.fromarray(gradient()), form)

  def start(*args, **options):
    raise AssertionError('another program was started')

  monkeypatch.setattr('subprocess.Popen', start)
  monkeypatch.setattr('subprocess.check_call', start)
  with pytest.raises(BrokenImageError, match='cannot identify'):
    decode(data)


@pytest.mark.parametrize('values, words', [
  (np.full((4, 4), 70_000, np.int32), '32-bit integers'),
  (np.full((4, 4), 0.5, np.float32), 'floating-point'),
])  # fmt: skip
def test_values_without_a_range_are_broken(values, words):
  with pytest.raises(BrokenImageError, match=words):
    decode(file_of(Image.fromarray(values), 'TIFF'))


def tiff(values, bits, photometric=1):
  """Returns a gray 12- or 16-bit TIFF with one strip, as cameras write it."""
  height, width = values.shape
  if bits == 12:
    flat = values.ravel().astype(int)
    first, second = flat[::2], flat[1::2]
    packed = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    strip = np.stack(packed, axis=1).astype(np.uint8).tobytes()
  else:
    strip = values.astype('<u2').tobytes()
  tags = [
    (256, width), (257, height), (258, bits), (259, 1), (262, photometric),
    (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, height), (279, len(strip)),
  ]  # fmt: skip
  entries = b''.join(struct.pack('<HHII', tag, 4, 1, v) for tag, v in tags)
  return b'II*\0' + struct.pack('<IH', 8, 9) + entries + bytes(4) + strip


@pytest.mark.parametrize('bits, photometric', [(12, 1), (16, 1), (16, 0)])
def test_more_than_eight_bits_of_a_tiff_are_scaled(bits, photometric):
  most = 2**bits - 1
  values = np.asarray([[0, most, most // 2], [most // 4, 1, most]]).repeat(2, 1)
  decoded = np.asarray(decode(tiff(values, bits, photometric)))[..., 0]
  expected = values * (255 / most)
  expected = expected if photometric else 255 - expected
  np.testing.assert_array_equal(decoded, np.round(expected))


def png_chunk(kind, content):
  check = struct.pack('>I', zlib.crc32(kind + content))
  return struct.pack('>I', len(content)) + kind + content + check


def png_of(lines, width, height, color_type=0, interlaced=0):
  """Returns a PNG with rows `lines`. The header may specify more rows."""
  sizes = width, height, 8, color_type, 0, 0, interlaced
  return (
    b'\x89PNG\r\n\x1a\n'
    + png_chunk(b'IHDR', struct.pack('>IIBBBBB', *sizes))
    + png_chunk(b'IDAT', zlib.compress(b''.join(lines)))
    + png_chunk(b'IEND', b'')
  )


@pytest.mark.parametrize('rows', [0, 1, 15])
def test_png_that_ends_early_but_cleanly_is_broken(rows):
  lines = [b'\0' + row.tobytes() for row in noise(16, 16)[:rows]]
  with pytest.raises(BrokenImageError):
    decode(png_of(lines, 16, 16, color_type=2))


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'LA', 'RGB', 'RGBA', 'I;16'])
@pytest.mark.parametrize('size', [(1, 1), (9, 7), (16, 3)])
def test_black_pngs_are_whole(mode, size):
  assert not np.asarray(decode(file_of(Image.new(mode, size)))).any()


def test_interlaced_black_png_is_whole():
  for width, height in itertools.product(range(1, 10), repeat=2):
    rows = []
    for y, x, dy, dx in images._ADAM7:
      wide, high = len(range(x, width, dx)), len(range(y, height, dy))
      rows += [bytes(1 + wide)] * high if wide else []
    whole, short = (
      png_of(some, width, height, interlaced=1) for some in (rows, rows[:-1])
    )
    assert decode(whole).size == (width, height)
    with pytest.raises(BrokenImageError):
      decode(short)


@pytest.mark.parametrize(
  'size', [(8200, 8200), (10_000, 9_000), (20_000, 20_000), (2**30, 2**30)]
)
def test_images_of_too_many_pixels_are_broken(size):
  with pytest.raises(BrokenImageError, match=r'67,108,864'):
    decode(png_of([], *size))


@pytest.mark.parametrize('size', [(1, 65_000), (65_000, 1), (3, 301)])
def test_very_thin_images_are_broken(size):
  data = file_of(Image.new('RGB', size), 'JPEG')
  with pytest.raises(BrokenImageError, match='100 times'):
    decode(data)


def adm_crop(image, size):
  """Crops an image by the method of `center_crop_arr` in guided-diffusion."""
  while min(*image.size) >= 2 * size:
    image = image.resize(
      tuple(x // 2 for x in image.size), resample=Image.Resampling.BOX
    )
  scale = size / min(*image.size)
  image = image.resize(
    tuple(round(x * scale) for x in image.size),
    resample=Image.Resampling.BICUBIC,
  )
  pixels = np.array(image)
  y, x = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
  return pixels[y : y + size, x : x + size]


@pytest.mark.parametrize(
  'shape',
  [(5, 7), (7, 5), (3, 48), (16, 16), (17, 250), (375, 500), (64, 33), (1, 9)],
)
def test_ordinary_crops_are_those_of_adm(shape):
  image = Image.fromarray(noise(*shape))
  np.testing.assert_array_equal(center_crop(image, 16), adm_crop(image, 16))


@pytest.mark.parametrize('shape', [(2, 199), (200, 2), (3, 300)])
def test_only_the_middle_of_thin_images_is_enlarged(shape, monkeypatch):
  thin = Image.fromarray(noise(*shape))
  sizes, resize = [], Image.Image.resize

  def watch(image, size, *args, **options):
    sizes.append(size)
    return resize(image, size, *args, **options)

  expected = adm_crop(thin, 64).astype(int)
  monkeypatch.setattr(Image.Image, 'resize', watch)
  crop = center_crop(thin, 64)
  assert crop.shape == (64, 64, 3)
  assert max(map(max, sizes)) <= 17 * 64
  # Pillow rounds the long side to whole pixels, which changes the scale.
  assert np.abs(crop - expected).max() <= 16


def test_short_memory_is_a_broken_image(monkeypatch):
  def fail(*args, **options):
    raise MemoryError

  monkeypatch.setattr(Image.Image, 'resize', fail)
  with pytest.raises(BrokenImageError, match='memory'):
    center_crop(Image.new('RGB', (4, 4)), 8)
  monkeypatch.setattr(Image, 'open', fail)
  with pytest.raises(BrokenImageError, match='MemoryError'):
    decode(b'')
