"""The same 64 images result for any number of devices and any batch size."""

import functools

import jax
import numpy as np
import pytest

from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh, replicated
from guidance import parse
from sample import generate, sampler

CONFIG = {
  'solver': 'euler_maruyama', 'steps': 3, 'spacing': 'uniform', 'shift': 1.5,
  'last_step_size': 0.04, 'respacing': '', 'scales_at': 'step',
  'state_dtype': 'float32',
}  # fmt: skip
LABELS = generate.plan_labels('random', 64, 10, seed=3)
TEXT = 'ig:1.4,icg:1.3'  # ICG samples a label per image.


@pytest.fixture(scope='module')
def draw(denoiser):

  @functools.cache
  def draw(text, devices, batch_size):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    latents = []

    def record(*args, sample=sampler.sample, **kwargs):
      x, spent = sample(*args, **kwargs)
      latents.append(np.asarray(x))
      return x, spent

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(sampler, 'sample', record)
      drawing = generate.Sampler(
        jax.device_put(denoiser, replicated(mesh)),
        generate.SampleConfig(**CONFIG, batch_size=batch_size),
        path_named('linear'), (8, 8, 3), mesh,
      )  # fmt: skip
      images, _, _ = drawing.images(parse(text), LABELS, seed=3)
    assert len(latents) == 64 // batch_size
    return images, np.concatenate(latents)

  return draw


FIRST = (1, 8)
# Entries are (devices, batch size). FIRST and (8, 64) have 8 rows per device.
CASES = [(4, 8)]
SLOW = [(8, 64), (1, 64), (4, 64), (8, 8)]
# The reference for this guidance is a batch size of 1 on one device.
ALL = 'ig:1.4,cfg:1.3,s2:1.25'


@pytest.mark.parametrize(
  ('text', 'first', 'case'),
  [
    *((TEXT, FIRST, case) for case in CASES),
    *(pytest.param(TEXT, FIRST, case, marks=pytest.mark.slow) for case in SLOW),
    pytest.param(ALL, (1, 1), (8, 8), marks=pytest.mark.slow),
    pytest.param(ALL, (1, 1), (1, 16), marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_images_are_the_same(draw, text, first, case):
  images, latents = draw(text, *case)
  expected_images, expected = draw(text, *first)
  rows = [batch_size // devices for devices, batch_size in (first, case)]
  if rows[0] == rows[1]:
    # With the same number of rows per device, results must be bitwise equal.
    np.testing.assert_array_equal(latents, expected)
    np.testing.assert_array_equal(images, expected_images)
  # With different numbers of rows, matrix products may sum in different orders.
  # Latents must still agree to 1e-5, and nearly all pixels must be equal.
  np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-5)
  difference = np.abs(images.astype(int) - expected_images)
  assert difference.max() <= 1 and (difference > 0).mean() < 2e-3


def test_images_differ_among_themselves(draw):
  images, latents = draw(TEXT, *FIRST)
  assert images.shape == (64, 8, 8, 3) and np.isfinite(latents).all()
  assert len(np.unique(images, axis=0)) == 64
