"""Resizes images for Inception with the methods of published FIDs.

A preset consists of two matrices, R for rows and C for columns, and a scaling:

  y[o, p] = sum_{h, w} R[o, h] C[p, w] x[h, w],   x in [0, 255]

  adm              TensorFlow 1 bilinear, (y - 128) / 128; equals torch_fidelity
  pytorch_fid      bilinear between pixel centers, 2 y / 255 - 1
  clean_fid        Pillow's antialiased bicubic, clipped, (y - 128) / 128

TensorFlow 1 samples at i * size / 299, measured from pixel corners instead of
centers, which shifts the image by up to half a pixel. When an image is reduced,
only clean_fid uses all of its pixels. For images of 299 x 299, the presets
differ only in the scaling of pytorch_fid.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core.errors import check_choice
from evaluate.inception import SIZE

PRESETS = ('adm', 'torch_fidelity', 'pytorch_fid', 'clean_fid')
USUAL = PRESETS[:2]  # two names of one preset, which most published FIDs use


def preprocess(images: jax.Array, preset: str) -> jax.Array:
  """Maps (B, H, W, 1 or 3) in [0, 255] to (B, 299, 299, 3) in about [-1, 1]."""
  check_choice('preprocessing', preset, PRESETS)
  x = jnp.asarray(images, jnp.float32)
  x = jnp.broadcast_to(x, (*x.shape[:3], 3))  # converts gray to RGB
  rows, columns = (resize_matrix(size, preset) for size in x.shape[1:3])
  level = lax.Precision.HIGHEST
  x = jnp.einsum('pw,bhwc->bhpc', columns, x, precision=level)
  x = jnp.einsum('oh,bhpc->bopc', rows, x, precision=level)
  if preset == 'clean_fid':  # bicubic values overshoot at edges
    x = x.clip(0, 255)
  return x * (2 / 255) - 1 if preset == 'pytorch_fid' else (x - 128) / 128


@functools.cache
def resize_matrix(size: int, preset: str) -> np.ndarray:
  """Returns weights (299, size) float32, which map old pixels to new ones."""
  if preset == 'clean_fid':
    return _bicubic(size)
  # Positions are float32, as in TensorFlow and PyTorch. The precision of
  # positions matters for images of 256 pixels.
  scale, new = np.float32(size / SIZE), np.arange(SIZE, dtype=np.float32)
  spot = new * scale if preset != 'pytorch_fid' else (new + 0.5) * scale - 0.5
  row, spot = np.arange(SIZE), spot.clip(0, size - 1)
  low = np.floor(spot).astype(int)
  matrix = np.zeros((SIZE, size))
  np.add.at(matrix, (row, low), 1 - (spot - low))
  np.add.at(matrix, (row, np.minimum(low + 1, size - 1)), spot - low)
  return matrix.astype(np.float32)


def _bicubic(size: int) -> np.ndarray:
  """Returns weights of Keys' cubic (a = -1/2), widened for `size` > 299."""
  scale = size / SIZE
  width = max(scale, 1.0)
  center = (np.arange(SIZE)[:, None] + 0.5) * scale
  d = np.abs(np.arange(size) + 0.5 - center) / width
  near = (1.5 * d - 2.5) * d * d + 1
  far = ((-0.5 * d + 2.5) * d - 4) * d + 2
  matrix = np.where(d < 1, near, np.where(d < 2, far, 0.0))
  return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)
