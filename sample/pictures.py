"""Grids and labeled sheets of images, and PNG files."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from core.errors import InputError
from core.files import write_bytes


def write_png(path: epath.PathLike, image: np.ndarray) -> None:
  """Writes an image (H, W, C) uint8 with C = 1 or 3."""
  data = io.BytesIO()
  Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
    data, 'png'
  )
  write_bytes(path, data.getvalue())


def write_figure(path: epath.PathLike, figure: Figure) -> None:
  """Writes a matplotlib figure as PNG."""
  data = io.BytesIO()
  figure.savefig(data, format='png', dpi='figure')
  write_bytes(path, data.getvalue())


def enlarge(images: np.ndarray, side: int) -> np.ndarray:
  """Enlarges images (n, H, W, C) uint8 to a height of `side` pixels.

  Uses a bicubic filter. Images of at least this height are returned unchanged.
  """
  count, height, width, channels = images.shape
  if height >= side or not count:
    return images
  size = (round(side * width / height), side)
  resized = [
    np.asarray(
      Image.fromarray(image.squeeze(-1) if channels == 1 else image).resize(
        size, Image.Resampling.BICUBIC
      )
    )
    for image in images
  ]
  return np.stack(resized).reshape(count, size[1], size[0], channels)


def change_from(
  images: np.ndarray, base: np.ndarray, amplified: int = 1
) -> np.ndarray:
  """Returns the change from `base` as images; 128 (gray) means no change.

  Args:
    images: Images (n, H, W, C) uint8.
    base: Images of the same shape.
    amplified: Factor of the difference.
  """
  change = amplified * (images.astype(int) - base.astype(int))
  return np.clip(128 + change, 0, 255).astype(np.uint8)


def animate(frames: np.ndarray, seconds: float = 3) -> bytes:
  """Returns an animated WebP that plays frames (F, H, W, 1 or 3) uint8 thrice.

  The last frame stays for one more second.
  """
  shape = (*frames.shape[:3], 3)
  images = [Image.fromarray(f) for f in np.broadcast_to(frames, shape)]
  times = [round(1000 * seconds / len(frames))] * len(frames)
  times[-1] += 1000
  data = io.BytesIO()
  images[0].save(
    data, 'webp', save_all=True, append_images=images[1:], duration=times,
    loop=3, quality=85,
  )  # fmt: skip
  return data.getvalue()


def tile(
  images: np.ndarray, columns: int, *, scale: int = 1, gap: int = 2
) -> np.ndarray:
  """Arranges images on white, row by row, in one image (H', W', C).

  Args:
    images: Images (n, H, W, C) uint8.
    columns: Number of images per row.
    scale: Magnification; each pixel becomes a square with this side.
    gap: Number of white pixels around each image.

  Raises:
    InputError: If `images` has another shape, or columns or scale are below 1.
  """
  if images.ndim != 4 or columns < 1 or scale < 1:
    raise InputError(
      f'images have shape {images.shape}, columns {columns}, scale {scale}; '
      'expected (n, H, W, C) and at least 1.'
    )
  images = images.repeat(scale, axis=1).repeat(scale, axis=2)
  images = np.pad(
    images, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255
  )
  n, h, w, c = images.shape
  rows = -(-n // columns)
  blank = np.full((rows * columns - n, h, w, c), 255, np.uint8)
  grid = np.concatenate([images, blank]).reshape(rows, columns, h, w, c)
  return grid.transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)


def sheet(
  blocks: Sequence[tuple[str, np.ndarray]],
  columns: int,
  *,
  scale: int,
  margin: int = 120,
) -> np.ndarray:
  """Stacks labeled blocks of images, with each name in a margin on the left.

  Args:
    blocks: Name and images (n, H, W, C) uint8 of each block.
    columns: Number of images per row.
    scale: Magnification; each pixel becomes a square with this side.
    margin: Minimum width of the margin for names, in pixels.

  Returns:
    The sheet, (H', W', 3) uint8.
  """
  font = ImageFont.load_default(size=18)
  lines = [line for name, _ in blocks for line in name.splitlines()]
  margin = max([margin, *(int(font.getlength(line)) + 24 for line in lines)])
  parts = []
  for name, images in blocks:
    block = tile(images, columns, scale=scale)
    block = np.broadcast_to(block, (*block.shape[:2], 3))
    label = Image.new('RGB', (margin, block.shape[0]), 'white')
    ImageDraw.Draw(label).multiline_text((12, 8), name, 'black', font)
    line = np.full((8, margin + block.shape[1], 3), 255, np.uint8)
    line[3:5] = 200
    parts += [line, np.concatenate([np.asarray(label), block], axis=1)]
  return np.concatenate(parts)
