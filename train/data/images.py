"""Image files to square arrays, as the field crops ImageNet.

The crop is that of ADM (Dhariwal & Nichol 2021, arXiv 2105.05233), which DiT,
SiT and LightningDiT share: halve with a BOX filter while the shorter side is
at least twice the size, resize to the size with BICUBIC, cut out the centre.
"""

import io
import re

import numpy as np
from PIL import Image, ImageOps


class BrokenImageError(ValueError):
  """A file is not an image, or only a part of one."""


def decode(data: bytes) -> Image.Image:
  """The bytes of an image file as an upright RGB image.

  Grey, palette and CMYK images are converted, 16-bit values scaled to 8 bits,
  transparency dropped, and the rotation that EXIF asks for carried out.

  Raises:
    BrokenImageError: if the bytes are no image, or not all of it.
  """
  try:
    with Image.open(io.BytesIO(data)) as file:
      file.load()
      image = ImageOps.exif_transpose(file)
      if image.mode.startswith('I'):  # of 16 bits; Pillow would clip them
        values = np.asarray(image).clip(0, 65535)
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
      return image.convert('RGB')
  # Pillow raises whatever its decoders do, for a damaged file nearly anything.
  except Exception as error:
    text = re.sub(r'<_io.BytesIO object at \w+>', 'it', str(error))
    raise BrokenImageError(' '.join(text.split())[:200]) from error


def center_crop(image: Image.Image, size: int) -> np.ndarray:
  """The centre of an image, (size, size, 3) uint8."""
  while min(image.size) >= 2 * size:
    image = image.resize(
      (image.width // 2, image.height // 2), Image.Resampling.BOX
    )
  scale = size / min(image.size)
  image = image.resize(
    (round(image.width * scale), round(image.height * scale)),
    Image.Resampling.BICUBIC,
  )
  top, left = ((side - size) // 2 for side in (image.height, image.width))
  return np.asarray(image)[top : top + size, left : left + size]
