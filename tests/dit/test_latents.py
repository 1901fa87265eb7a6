"""Pixels to latents and back."""

import jax.numpy as jnp
import numpy as np

from dit import latents

PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_every_pixel_survives_the_round_trip():
  x = latents.from_pixels(PIXELS)
  assert x.dtype == jnp.float32
  assert (x.min(), x.max()) == (-1, 1)
  back = latents.to_pixels(x)
  assert back.dtype == jnp.uint8
  np.testing.assert_array_equal(back, PIXELS)


def test_pixels_round_to_the_nearest():
  x = latents.from_pixels(PIXELS)
  for shift in (-0.49, 0.49):
    back = latents.to_pixels(x + shift / 127.5)
    np.testing.assert_array_equal(back, PIXELS)


def test_values_outside_are_clipped():
  x = jnp.asarray([-1e6, -3, -1.01, 1.01, 3, 1e6])
  np.testing.assert_array_equal(latents.to_pixels(x), [0] * 3 + [255] * 3)
