"""The KL autoencoders match the code in diffusers and VA-VAE."""

import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import assert_same
from reference import relative
from safetensors.numpy import load_file

from core.errors import InputError
from dit import autoencoder, latents
from dit.autoencoder import KLConfig, kl_from_published
from dit.autoencoder.layers import group_norm

ROOT = pathlib.Path(__file__).parents[3]
FOLDERS = {
  'sd_vae': ROOT / 'tests' / 'golden' / 'sd_vae',
  'va_vae': ROOT.parent / 'shared' / 'golden' / 'va_vae',
}
OPTIONS = {'sd_vae': {'norm_groups': 8}, 'va_vae': {}}
CONFIGS = {
  'sd_vae': KLConfig(widths=(16, 16, 32, 32), latent_channels=4, norm_groups=8),
  'va_vae': KLConfig(widths=(32, 32, 32, 32, 64), latent_channels=8,
                     attention_levels=(4,)),
}  # fmt: skip


def read(name):
  if not FOLDERS[name].exists():
    pytest.skip('the shared golden files are not beside the project')
  halves = 'encoder', 'decoder'
  return [load_file(FOLDERS[name] / f'{half}.safetensors') for half in halves]


def nhwc(x):
  return np.moveaxis(x, -3, -1)


@jax.jit
def decode(vae, z):
  return vae.decode(z)


@pytest.fixture(scope='module', params=FOLDERS)
def golden(request):
  files = read(request.param)
  config, params = kl_from_published(*files, **OPTIONS[request.param])
  assert config == CONFIGS[request.param]
  # Converted parameters and published files have the same number of values.
  ours = jax.tree.leaves(params)
  theirs = [tensor for file in files for tensor in file.values()]
  assert sum(leaf.size for leaf in ours) == sum(t.size for t in theirs)
  assert {leaf.dtype for leaf in ours} == {np.dtype('float32')}
  io = np.load(FOLDERS[request.param] / 'io.npz')
  return autoencoder.Autoencoder(params, config), io


def with_dtype(vae, dtype):
  config = dataclasses.replace(vae.config, dtype=dtype)
  return dataclasses.replace(vae, config=config)


def test_float32(golden):
  vae, io = with_dtype(golden[0], 'float32'), golden[1]
  posterior = jax.jit(lambda vae, x: vae.encode(x))(vae, nhwc(io['x']))
  assert relative(posterior.std, io['std']) < 1e-5
  moments = np.concatenate(
    [posterior.mean, 2 * np.log(posterior.std, dtype=np.float64)], axis=-1
  )
  assert relative(moments, io['moments_f64']) < 1e-5
  assert relative(decode(vae, nhwc(io['z'])), io['decoded_f64']) < 1e-5


@pytest.mark.slow
def test_bfloat16(golden):
  vae, io = with_dtype(golden[0], 'bfloat16'), golden[1]
  out = decode(vae, nhwc(io['z']))
  assert out.dtype == jnp.float32
  # In the reference, bfloat16 and float64 results differ by 1.4 %.
  assert 1e-3 < relative(out, io['decoded_f64']) < 0.04
  out = jax.jit(lambda vae, x: vae.moments(x))(vae, nhwc(io['x']))
  assert 1e-3 < relative(out, io['moments_f64']) < 0.04


def test_published_uint8():
  """Pixels equal trunc(127.5 x + 128), as in LightningDiT."""
  read('va_vae')
  io = np.load(FOLDERS['va_vae'] / 'io.npz')
  ours = latents.to_pixels(jnp.asarray(nhwc(io['decoded'])))
  np.testing.assert_array_equal(ours, io['decoded_uint8_nhwc'])


# The same tensors under other published names must give equal parameters.


def merged():
  return {name: t for file in read('sd_vae') for name, t in file.items()}


def as_old_diffusers(tensors):
  old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value',
         'to_out.0': 'proj_attn'}  # fmt: skip
  return {
    re.sub('|'.join(old), lambda m: old[m[0]], name): tensor
    for name, tensor in tensors.items()
  }


def as_ldm(tensors):
  def rename(name):
    name = re.sub(r'up_blocks\.(\d)', lambda m: f'up.{3 - int(m[1])}', name)
    for theirs, ours in (
      (r'down_blocks', 'down'), (r'mid_block\.attentions\.0', 'mid.attn_1'),
      (r'mid_block\.resnets\.0', 'mid.block_1'),
      (r'mid_block\.resnets\.1', 'mid.block_2'), (r'resnets', 'block'),
      (r'(down|up)samplers\.0', r'\1sample'), (r'group_norm', 'norm'),
      (r'conv_shortcut', 'nin_shortcut'), (r'conv_norm_out', 'norm_out'),
      (r'to_([qkv])', r'\1'), (r'to_out\.0', 'proj_out'),
    ):  # fmt: skip
      name = re.sub(theirs, ours, name)
    return name

  return {
    rename(name): tensor[:, :, None, None] if tensor.ndim == 2 else tensor
    for name, tensor in tensors.items()
  }


def as_training_checkpoint(tensors):
  extra = ('loss.logvar', 'linear_proj.weight',
           'foundation_model.model.encoder.weight')  # fmt: skip
  return as_ldm(tensors) | dict.fromkeys(extra, np.zeros(3, np.float32))


def as_stable_diffusion(tensors):
  renamed = {f'first_stage_model.{n}': t for n, t in as_ldm(tensors).items()}
  return renamed | {'model.diffusion_model.out.2.bias': np.zeros(4)}


LAYOUTS = as_old_diffusers, as_ldm, as_training_checkpoint, as_stable_diffusion


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_hold_the_same(layout):
  expected = kl_from_published(*read('sd_vae'), norm_groups=8)
  config, params = kl_from_published(layout(merged()), norm_groups=8)
  assert config == expected[0]
  assert_same(params, expected[1])


@pytest.mark.parametrize('layout', [dict, as_ldm])
@pytest.mark.parametrize('half', ['encoder', 'decoder'])
def test_one_half_alone(half, layout):
  both_config, both = kl_from_published(layout(merged()), norm_groups=8)
  file = read('sd_vae')[half == 'decoder']
  config, params = kl_from_published(layout(file), norm_groups=8)
  assert config == both_config
  assert_same(params, {half: both[half]})
  vae = autoencoder.Autoencoder(params, config)
  with pytest.raises(InputError, match=r'have no (en|de)coder'):
    if half == 'encoder':
      vae.decode(jnp.zeros((1, 8, 8, 4)))
    else:
      vae.encode(jnp.zeros((1, 64, 64, 3)))


NAMES = [
  'encoder.conv_in.weight', 'quant_conv.weight', 'post_quant_conv.bias',
  'encoder.down_blocks.2.resnets.0.conv_shortcut.bias',
  'encoder.mid_block.attentions.0.to_out.0.weight',
  'encoder.down_blocks.1.resnets.0.conv1.weight',
  'decoder.up_blocks.0.upsamplers.0.conv.weight',
  'decoder.up_blocks.3.resnets.2.norm2.bias',
]  # fmt: skip
DAMAGES = {
  'is missing': lambda file, name: file.pop(name),
  'has shape': lambda file, name: file.update({name: file[name][0]}),
  'has no place': lambda file, name: file.update({f'{name}2': file[name]}),
}


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_tensor_is_named(name, damage):
  tensors = merged()
  DAMAGES[damage](tensors, name)
  with pytest.raises(InputError, match=re.escape(name)):
    kl_from_published(tensors, norm_groups=8)


def test_other_files_are_refused():
  with pytest.raises(InputError, match='encoder'):
    kl_from_published({'blocks.0.weight': np.zeros(3)})


def test_groups_must_divide():
  with pytest.raises(InputError, match=r'norm_groups 32 .* 16'):
    kl_from_published(*read('sd_vae'))


# The following tests check only the shapes of networks of published sizes.


def count(config):
  return sum(s.size for s in jax.tree.leaves(autoencoder.shapes(config)))


def test_full_size_sd_vae():
  config = KLConfig(widths=(128, 256, 512, 512), latent_channels=4)
  assert count(config) == 83_653_863
  assert config.downsampling == 8


def test_full_size_va_vae():
  read('va_vae')
  listed = json.loads((FOLDERS['va_vae'] / 'config.json').read_text())
  listed = listed['full_size_f16d32']
  zero = np.zeros((), np.float32)
  tensors = {n: np.broadcast_to(zero, s) for n, s in listed['keys'].items()}
  config, params = kl_from_published(tensors)
  widths = (128, 128, 256, 256, 512)
  assert config == KLConfig(widths=widths, latent_channels=32,
                            attention_levels=(4,))  # fmt: skip
  assert config.downsampling == 16
  assert count(config) == listed['n_params'] == 69_836_067
  shapes = jax.tree.map(np.shape, autoencoder.shapes(config))
  assert jax.tree.map(np.shape, params) == shapes


@pytest.mark.parametrize('shape', [(1, 60, 64, 3), (1, 64, 64, 4)])
def test_wrong_images_are_refused(shape):
  config, params = kl_from_published(*read('sd_vae'), norm_groups=8)
  vae = autoencoder.Autoencoder(params, config)
  with pytest.raises(ValueError, match='expected'):
    vae.encode(jnp.zeros(shape))
  with pytest.raises(ValueError, match='expected'):
    vae.decode(jnp.zeros((1, 8, 8, 5)))


def test_norm_keeps_small_changes_on_a_large_mean():
  norm = group_norm(8, 2, 1e-6, dtype='float32', rngs=nnx.Rngs(0))
  h = 300 + np.random.default_rng(0).standard_normal((1, 4, 4, 8), np.float32)
  groups = h.astype(np.float64).reshape(16, 2, 4)
  centered = groups - groups.mean((0, 2), keepdims=True)
  expected = centered / centered.std((0, 2), keepdims=True)
  np.testing.assert_allclose(norm(h).reshape(16, 2, 4), expected, atol=1e-4)
