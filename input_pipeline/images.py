"""Decodes and center-crops image files.

ADM (Dhariwal & Nichol 2021, arXiv 2105.05233), DiT, SiT and LightningDiT use
this crop: Halve the image with a BOX filter while the shorter side is at least
twice `size`. Resize the shorter side to `size` with BICUBIC. Crop the center.
"""

import functools
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

# Formats that Pillow may open, whatever the file's suffix. For other formats,
# Pillow may start a program, such as Ghostscript for EPS.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF')
# Limits on the memory of one image. A file above a limit is a broken image.
MAX_FILE_BYTES = 2**28
MAX_PIXELS = 2**26
MAX_ASPECT = 100
# Before enlargement, an image is cropped to at most this aspect ratio.
_SQUARES_TO_ENLARGE = 16

_UNBOUNDED = {
  'I': 'signed or 32-bit integers',
  'F': 'floating-point numbers',
}
# Two TIFF tags, and the value of tag _PHOTOMETRIC if the gray value 0 is white.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
# Adam7 passes of interlaced PNGs: first row and column, row and column step.
_ADAM7 = (
  (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
  (0, 1, 2, 2), (1, 0, 2, 1),
)  # fmt: skip


class BrokenImageError(ValueError):
  """A file that is not an image, is truncated, or exceeds the limits."""


def decode(data: bytes, channels: int = 3) -> Image.Image:
  """Decodes the bytes of a file to an upright image of 3 (RGB) or 1 channel.

  Gray, palette and CMYK images are converted, transparency is dropped, and the
  EXIF rotation is applied. Gray values of 12 and 16 bits are scaled to 8 bits.
  RGB values of 16 bits are truncated to their upper 8 bits.

  Raises:
    BrokenImageError: if the bytes are not a complete image in one of `FORMATS`,
      exceed a limit, or have values of unknown range.
  """
  _refuse_bombs()
  try:
    with Image.open(io.BytesIO(data), formats=FORMATS) as file:
      _check_size(*file.size)
      file.load()
      if file.format == 'PNG' and _lacks_rows(file, data):
        raise BrokenImageError('its last rows are missing')
      ImageOps.exif_transpose(file, in_place=True)
      image = _to_eight_bits(file)
      mode = 'L' if channels == 1 else 'RGB'
      return image if image.mode == mode else image.convert(mode)
  except (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
  ) as error:
    raise BrokenImageError(f'it has more than {MAX_PIXELS:,} pixels') from error
  # A damaged file can raise nearly any exception in Pillow's decoders.
  except Exception as error:
    text = re.sub(r'<_io.BytesIO object at \w+>', 'it', str(error))
    text = ' '.join(text.split())[:200] or type(error).__name__
    raise BrokenImageError(text) from error


def center_crop(image: Image.Image, size: int) -> np.ndarray:
  """Returns the center crop of an image, (size, size, channels) uint8.

  Raises:
    BrokenImageError: if memory runs out.
  """
  try:
    while min(image.size) >= 2 * size:
      image = image.resize(
        (image.width // 2, image.height // 2), Image.Resampling.BOX
      )
    scale = size / min(image.size)
    if scale > 1:
      image = _crop_middle(image)
    image = image.resize(
      (round(image.width * scale), round(image.height * scale)),
      Image.Resampling.BICUBIC,
    )
  except MemoryError as error:
    raise BrokenImageError('it takes more memory than there is') from error
  top, left = ((side - size) // 2 for side in (image.height, image.width))
  crop = np.asarray(image)[top : top + size, left : left + size]
  return crop if crop.ndim == 3 else crop[..., None]


def _crop_middle(image: Image.Image) -> Image.Image:
  """Crops a very thin image to its middle; leaves other images unchanged."""
  edge = min(image.size)
  # Both ends lose the same number of pixels, so the center does not move.
  left, top = (
    max((side - _SQUARES_TO_ENLARGE * edge) // 2, 0) for side in image.size
  )
  if not left and not top:
    return image
  return image.crop((left, top, image.width - left, image.height - top))


@functools.cache
def _refuse_bombs() -> None:
  """Turns Pillow's warning about large images into an error."""
  warnings.filterwarnings('error', category=Image.DecompressionBombWarning)


def _check_size(width: int, height: int) -> None:
  """Raises BrokenImageError for an image that is too large or too thin."""
  if width * height > MAX_PIXELS:
    raise BrokenImageError(
      f'it has {width} x {height} pixels, more than {MAX_PIXELS:,}'
    )
  if max(width, height) > MAX_ASPECT * min(width, height):
    raise BrokenImageError(
      f'it has {width} x {height} pixels, and one side is more than '
      f'{MAX_ASPECT} times the other'
    )


def _to_eight_bits(image: Image.Image) -> Image.Image:
  """Scales gray values to 8 bits; Pillow would clip them instead."""
  if image.mode in _UNBOUNDED:
    raise BrokenImageError(
      f'its pixels are {_UNBOUNDED[image.mode]}, whose range is not known; '
      'save it with 8 or 16 bits'
    )
  if not image.mode.startswith('I;16'):
    return image
  tags = getattr(image, 'tag_v2', {})
  bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
  table = np.arange(2**16) / ((2**bits - 1) / 255)
  if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
    table = 255 - table
  table = np.round(table.clip(0, 255)).astype(np.uint8)
  # Rows are converted one by one, since table indices take 8 bytes per pixel.
  return Image.fromarray(np.stack([table[row] for row in np.asarray(image)]))


def _lacks_rows(file: Image.Image, data: bytes) -> bool:
  """Returns whether a PNG's compressed data end before the last row.

  Pillow silently fills missing rows with zeros. A non-interlaced image is
  therefore complete if the last row has a nonzero value.
  """
  width, height = file.size
  last = file.crop((0, height - 1, width, height))
  if last.getbbox(alpha_only=False) and not file.info.get('interlace'):
    return False
  chunks = list(_chunks(data))
  depth, color, _, _, interlace = dict(chunks)[b'IHDR'][8:13]
  bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
  passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
  expected = 0
  for row, column, row_step, column_step in passes:
    size = len(range(column, width, column_step))
    if size:  # in PNG data, each row starts with one byte for the filter
      expected += len(range(row, height, row_step)) * (1 + -(-size * bits // 8))
  stream = b''.join(content for kind, content in chunks if kind == b'IDAT')
  return _count_bytes(stream) < expected


def _count_bytes(data: bytes) -> int:
  """Returns the decompressed size of a zlib stream, using little memory."""
  stream, count = zlib.decompressobj(), 0
  while piece := stream.decompress(data, 2**20):
    count, data = count + len(piece), stream.unconsumed_tail
  return count


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields the type and the content of each chunk of a PNG."""
  offset = 8
  while offset + 8 <= len(data):
    length, kind = struct.unpack('>I4s', data[offset : offset + 8])
    yield kind, data[offset + 8 : offset + 8 + length]
    offset += 12 + length
