import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from dit import latents
from dit.autoencoder import AUTOENCODERS

FOLDER = pathlib.Path(__file__).parents[2] / 'golden' / 'sd_vae'


@pytest.fixture(scope='module')
def io():
  arrays = np.load(FOLDER / 'io.npz').items()
  return {name: np.moveaxis(array, -3, -1) for name, array in arrays}


def close(ours, golden):
  # The golden latents are float32, and the golden moments are float64.
  np.testing.assert_allclose(ours, golden, rtol=1e-5, atol=1e-5)


def test_every_step_of_a_latent(io):
  moments = jnp.asarray(io['moments_f64'], jnp.float32)
  posterior = latents.Posterior.from_moments(moments)
  close(posterior.mean, io['mean'])
  close(posterior.std, io['std'])
  close(posterior.stored(), io['moments_mean_std'])
  z = posterior.draw(io['posterior_noise'])
  close(z, io['posterior_sample'])
  close(AUTOENCODERS['sd_vae'].normalization.normalize(z), io['scaled_latent'])


def test_stored_moments_give_the_published_latent(io):
  posterior = latents.Posterior.from_stored(jnp.asarray(io['moments_mean_std']))
  close(posterior.draw(io['posterior_noise']), io['posterior_sample'])


def test_truncation_is_the_published_one():
  x = jnp.linspace(-1.1, 1.1, 1001)
  expected = ((np.asarray(x) + 1) / 2 * 255).clip(0, 255).astype(np.uint8)
  ours = np.asarray(latents.to_pixels(x, truncate=True))
  assert (ours != expected).mean() < 0.01  # Float rounding may differ.
  nearest = np.asarray(latents.to_pixels(x))
  assert 0.4 < (nearest != ours).mean() < 0.6
