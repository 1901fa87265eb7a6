"""Tests the TAESD family. Only taef2 is tested with published weights."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_same
from reference import relative
from safetensors.numpy import load_file

from core.errors import InputError
from dit import autoencoder, latents

SHARED = pathlib.Path(__file__).parents[4] / 'shared'
HALVES = 'encoder', 'decoder'


@pytest.fixture(scope='module')
def taef2():
  folder = SHARED / 'weights' / 'taef2'
  if not folder.exists():
    pytest.skip('the shared weights are not beside the project')
  files = (folder / f'taef2_{half}.safetensors' for half in HALVES)
  tiny = autoencoder.load('taef2', *map(load_file, files), dtype='float32')
  assert tiny.config == autoencoder.TinyConfig(latent_channels=32, normed=True,
                                               dtype='float32')  # fmt: skip
  leaves = jax.tree.leaves(tiny.params)
  assert sum(leaf.size for leaf in leaves) == 1338528 + 1338499
  assert {leaf.dtype for leaf in leaves} == {np.dtype('float32')}
  return tiny, np.load(SHARED / 'golden' / 'taef2' / 'io.npz')


@pytest.mark.slow
def test_taef2_reconstructs(taef2):
  tiny, golden = taef2
  image = golden['image_uint8_nhwc']
  x = latents.from_pixels(jnp.asarray(image))
  posterior = jax.jit(lambda tiny, x: tiny.encode(x))(tiny, x)
  assert relative(posterior.mean, golden['latent']) < 1e-5
  assert not posterior.std.any()
  recon = jax.jit(lambda tiny, z: tiny.decode(z))(tiny, posterior.mean)
  unit = (np.asarray(recon, np.float64) + 1) / 2
  assert relative(unit, golden['recon_unclamped']) < 1e-5
  error = np.square(unit.clip(0, 1) - image / 255).mean((1, 2, 3))
  psnr = -10 * np.log10(error)
  np.testing.assert_allclose(psnr, golden['psnr_db'], atol=0.01)
  pixels = np.asarray(latents.to_pixels(recon))
  differing = pixels != golden['recon_uint8_nhwc']
  assert differing.mean() < 1e-3  # Rounding near x.5 may differ.


def tensors_of(params, half, prefix='', left_out=0):
  named = {}
  for path, leaf in jax.tree.leaves_with_path(params[half]):
    position, *parts, kind = (e.key for e in path if e.key != 'layers')
    suffix = 'bias' if kind == 'bias' else 'weight'
    parts = [f'{prefix}{position - left_out}', *map(str, parts), suffix]
    leaf = np.asarray(leaf, np.float16)
    if kind == 'kernel':
      leaf = leaf.transpose(3, 2, 0, 1)
    named['.'.join(parts)] = leaf
  return named


def original(params):
  return [tensors_of(params, half) for half in HALVES]


def reverse_order(params):
  return original(params)[::-1]


def diffusers(params):
  encoder = tensors_of(params, 'encoder', 'encoder.layers.')
  return [encoder | tensors_of(params, 'decoder', 'decoder.layers.', 1)]


def fresh(name):
  """Returns config and random weights of a narrow autoencoder."""
  channels = autoencoder.AUTOENCODERS[name].latent_channels
  config = autoencoder.TinyConfig(latent_channels=channels, width=8,
                                  normed=name == 'taef2')  # fmt: skip
  rng = np.random.default_rng(0)

  def draw(leaf):
    # The published files have float16 values.
    values = 0.1 * rng.standard_normal(leaf.shape)
    return values.astype(np.float16).astype(np.float32)

  return config, jax.tree.map(draw, autoencoder.shapes(config))


@pytest.mark.parametrize('layout', [original, reverse_order, diffusers])
@pytest.mark.parametrize('name', ['taesd', 'taef1', 'taef2'])
def test_layouts_hold_the_same(name, layout):
  config, params = fresh(name)
  tiny = autoencoder.load(name, *layout(params))
  assert tiny.config == config
  assert tiny.downsampling == 8
  assert_same(tiny.params, params)


def test_positions_are_the_published_ones():
  _, params = fresh('taesd')
  encoder, decoder = original(params)
  convs = {name for name in encoder if name.count('.') == 1}
  assert convs == {'0.weight', '0.bias', '2.weight', '6.weight', '10.weight',
                   '14.weight', '14.bias'}  # fmt: skip
  convs = {name for name in decoder if name.count('.') == 1}
  assert convs == {'1.weight', '1.bias', '7.weight', '12.weight', '17.weight',
                   '19.weight', '19.bias'}  # fmt: skip


def test_one_half_alone():
  config, params = fresh('taesd')
  for half, file in zip(HALVES, original(params), strict=True):
    tiny = autoencoder.load('taesd', file)
    assert tiny.config == config
    assert set(tiny.params) == {half}


def test_latents_are_clipped_softly():
  _, params = fresh('taesd')
  tiny = autoencoder.load('taesd', *original(params))
  z = jnp.full((1, 2, 2, 4), 100.0)
  np.testing.assert_allclose(tiny.decode(z), tiny.decode(2 * z), atol=1e-5)


@pytest.mark.parametrize('damage', ['missing', 'misshapen', 'left over'])
@pytest.mark.parametrize('layout', [original, diffusers])
def test_damage_is_named(layout, damage):
  _, params = fresh('taesd')
  *_, file = layout(params)
  name = next(n for n in file if n.endswith('8.conv.4.bias'))
  if damage == 'missing':
    del file[name]
  elif damage == 'misshapen':
    file[name] = file[name][1:]
  else:
    name = name.replace('bias', 'gain')
    file[name] = np.zeros(8)
  with pytest.raises(InputError, match=name):
    autoencoder.load('taesd', file)
