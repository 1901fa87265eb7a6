"""The same 64 images from any number of devices and in batches of any size."""

import functools

import jax
import numpy as np
import pytest

from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh, replicated
from guidance import parse
from sample import generate, sampler

CONFIG = {
  'solver': 'euler_maruyama',
  'steps': 3,
  'spacing': 'uniform',
  'shift': 1.5,
  'last_step_size': 0.04,
  'respacing': '',
  'scales_at': 'step',
  'state_dtype': 'float32',
}
LABELS = generate.plan_labels('random', 64, 10, seed=3)
pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def draw(denoiser):
  """Images and latents of a number of devices and a batch size."""

  @functools.cache
  def draw(devices, batch_size):
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
        path_named('linear'),
        (8, 8, 3),
        mesh,
      )
      # Labels drawn for each image; S2 beside CFG is in test_sampler.py.
      images, _, _ = drawing.images(parse('ig:1.4,icg:1.3'), LABELS, seed=3)
    assert len(latents) == 64 // batch_size
    return images, np.concatenate(latents)

  return draw


CASES = [(1, 8), (1, 64), (4, 8), (4, 64), (8, 8), (8, 64)]
BITWISE = {((1, 8), (8, 64))}  # eight rows on each device


@pytest.mark.parametrize('case', CASES[1:], ids=str)
def test_images_are_the_same(draw, case):
  first = CASES[0]
  images, latents = draw(*case)
  expected_images, expected = draw(*first)
  rows = [batch_size // devices for devices, batch_size in (first, case)]
  assert ((first, case) in BITWISE) == (rows[0] == rows[1])
  if rows[0] == rows[1]:
    # Each device has the same work: bit for bit.
    np.testing.assert_array_equal(latents, expected)
    np.testing.assert_array_equal(images, expected_images)
  # Else matrix products of other sizes sum in another order: within 1e-5, and
  # a pixel here and there rounds the other way.
  np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-5)
  difference = np.abs(images.astype(int) - expected_images)
  assert difference.max() <= 1 and (difference > 0).mean() < 2e-3


def test_images_differ_among_themselves(draw):
  images, latents = draw(*CASES[0])
  assert images.shape == (64, 8, 8, 3) and np.isfinite(latents).all()
  assert len(np.unique(images, axis=0)) == 64
