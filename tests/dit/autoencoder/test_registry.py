"""The registry finds autoencoders and their latent spaces by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from dit import autoencoder
from dit.latents import Normalization, Posterior


def published(config):
  named = {}
  shapes = autoencoder.shapes(config)
  for path, leaf in jax.tree.leaves_with_path(shapes):
    *module, kind = (str(entry.key) for entry in path)
    if 'quant_conv' in module[1]:
      del module[0]
    shape = leaf.shape
    if kind == 'kernel':
      shape = (shape[3], shape[2], shape[0], shape[1])
    name = '.'.join([*module, 'bias' if kind == 'bias' else 'weight'])
    named[name] = np.broadcast_to(np.float32(0), shape)
  return named


VA_VAE = autoencoder.KLConfig(
  widths=(128, 128, 256, 256, 512), latent_channels=32, attention_levels=(4,)
)
SD_VAE = autoencoder.KLConfig(widths=(128, 256, 512, 512), latent_channels=4)
STATISTICS = {
  'mean': np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 32, 1, 1),
  'std': np.linspace(0.5, 2, 32, dtype=np.float32).reshape(1, 32, 1, 1),
}


def test_sd_vae_scales():
  vae = autoencoder.load('sd_vae', published(SD_VAE))
  assert vae.config == SD_VAE
  assert (vae.downsampling, vae.latent_channels) == (8, 4)
  z = jnp.ones((1, 2, 2, 4))
  np.testing.assert_allclose(vae.normalize(z), 0.18215 * z, rtol=1e-6)
  np.testing.assert_allclose(vae.denormalize(vae.normalize(z)), z, rtol=1e-6)


def test_va_vae_takes_its_statistics():
  vae = autoencoder.load('va_vae', published(VA_VAE), statistics=STATISTICS)
  assert vae.config == VA_VAE
  assert (vae.downsampling, vae.latent_channels) == (16, 32)
  z = jax.random.normal(jax.random.key(0), (2, 3, 3, 32))
  x = vae.normalize(z)
  mean, std = (STATISTICS[name].ravel() for name in ('mean', 'std'))
  np.testing.assert_allclose(x, (z - mean) / std, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(vae.denormalize(x), z, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('name', 'configs', 'statistics', 'message'), [
  ('va_vae', [VA_VAE], None, 'latents_stats'),
  ('sd_vae', [SD_VAE], STATISTICS, r'32 channels, but .*sd_vae.* has 4'),
  ('va_vae', [SD_VAE], STATISTICS, r'by 8 to 4 channels.* by 16 to 32'),
  ('vavae', [], None, "mean 'va_vae'"),
  ('sd_vae', [], None, '0 files'),
  ('taesd', [], None, '0 files'),
])  # fmt: skip
def test_files_that_do_not_fit_are_refused(name, configs, statistics, message):
  with pytest.raises(InputError, match=message):
    autoencoder.load(name, *map(published, configs), statistics=statistics)


def test_posterior_clamps_the_log_variance():
  log_variance = jnp.asarray([-1e6, -30, 0, 20, 1e6])
  moments = jnp.stack([jnp.arange(5.0), log_variance], axis=-1)
  posterior = Posterior.from_moments(moments)
  np.testing.assert_array_equal(posterior.mean[..., 0], np.arange(5))
  expected = np.exp(np.asarray([-15, -15, 0, 10, 10]))
  np.testing.assert_allclose(posterior.std[..., 0], expected, rtol=1e-6)


def test_posterior_survives_storage():
  keys = jax.random.split(jax.random.key(0))
  mean, std = (jax.random.uniform(key, (2, 3, 3, 4)) for key in keys)
  stored = Posterior(mean, std).stored()
  assert stored.shape == (2, 3, 3, 8)
  back = Posterior.from_stored(stored)
  np.testing.assert_array_equal(back.mean, mean)
  np.testing.assert_array_equal(back.std, std)
  np.testing.assert_array_equal(back.draw(jnp.ones_like(mean)), mean + std)


@pytest.mark.parametrize(('tensors', 'match'), [
  ({'mean': STATISTICS['mean']}, "no tensor 'std'"),
  (STATISTICS | {'mean': np.zeros((1, 4, 1, 1))}, 'one number for each'),
  ({'mean': np.zeros((1, 2, 3)), 'std': np.ones((1, 2, 3))}, 'one number'),
  (STATISTICS | {'std': -STATISTICS['std']}, 'positive'),
  (STATISTICS | {'std': 0 * STATISTICS['std']}, 'positive'),
  (STATISTICS | {'std': np.nan * STATISTICS['std']}, 'positive'),
  (STATISTICS | {'mean': np.inf * STATISTICS['std']}, 'finite'),
])  # fmt: skip
def test_bad_statistics_are_refused(tensors, match):
  with pytest.raises(InputError, match=match):
    Normalization.from_tensors(tensors)


def test_unknown_dtype_is_refused():
  with pytest.raises(InputError, match='one of auto, float32, bfloat16'):
    autoencoder.TinyConfig(latent_channels=4, dtype='float16')
