"""Autoencoders with random weights match diffusers. The tests need torch."""

import jax
import numpy as np
import pytest

from dit import autoencoder

REASON = 'needs torch and diffusers: pip install -r requirements-torch.txt'
pytestmark = pytest.mark.filterwarnings('ignore')  # diffusers prints warnings.


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason=REASON)


@pytest.fixture(scope='module')
def diffusers():
  return pytest.importorskip('diffusers', reason=REASON)


def randomise(torch, reference):
  """Adds noise to all parameters, so that no parameter is exactly 0 or 1."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in reference.parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.add_(0.05 * noise)
  return reference.eval()


def tensors_of(reference):
  return {n: t.numpy() for n, t in reference.state_dict().items()}


def inputs(torch, channels, latent_channels):
  rng = np.random.default_rng(0)
  x = rng.uniform(-1, 1, (2, 32, 48, channels)).astype(np.float32)
  z = 2 * rng.standard_normal((2, 4, 6, latent_channels), np.float32)
  nchw = [torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, z)]
  return x, z, *nchw


def check(ours, theirs):
  theirs = theirs.permute(0, 2, 3, 1).numpy()
  assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize('attention', [False, True])
def test_kl(torch, diffusers, attention):
  kind = 'Attn{}Block2D' if attention else '{}Block2D'
  down, up = kind.format('DownEncoder'), kind.format('UpDecoder')
  reference = randomise(torch, diffusers.AutoencoderKL(
    down_block_types=('DownEncoderBlock2D',) * 3 + (down,),
    up_block_types=(up,) + ('UpDecoderBlock2D',) * 3,
    block_out_channels=(8, 16, 16, 32), layers_per_block=1, norm_num_groups=4,
    latent_channels=4,
  ))  # fmt: skip
  # diffusers would use heads of 8 channels here. Our code has one head.
  for part in (reference.encoder, reference.decoder):
    for module in part.modules():
      if hasattr(module, 'heads'):
        module.heads = 1
        module.scale = 32**-0.5
  config, params = autoencoder.kl_from_published(
    tensors_of(reference), norm_groups=4, dtype='float32'
  )
  assert config.widths == (8, 16, 16, 32)
  assert config.layers == 1
  assert config.attention_levels == ((3,) if attention else ())
  vae = autoencoder.Autoencoder(params, config)
  x, z, their_x, their_z = inputs(torch, 3, 4)
  with torch.no_grad():
    posterior = reference.encode(their_x).latent_dist
    decoded = reference.decode(their_z).sample
  moments = jax.jit(lambda vae, x: vae.moments(x))(vae, x)
  check(moments, posterior.parameters)
  check(jax.jit(lambda vae, z: vae.decode(z))(vae, z), decoded)


@pytest.mark.parametrize('name', ['taesd', 'taesd3'])
def test_tiny(torch, diffusers, name):
  latent_channels = autoencoder.AUTOENCODERS[name].latent_channels
  reference = randomise(torch, diffusers.AutoencoderTiny(
    latent_channels=latent_channels, encoder_block_out_channels=(16,) * 4,
    decoder_block_out_channels=(16,) * 4,
  ))  # fmt: skip
  tiny = autoencoder.load(name, tensors_of(reference), dtype='float32')
  x, z, their_x, their_z = inputs(torch, 3, latent_channels)
  with torch.no_grad():
    latents = reference.encode(their_x).latents
    decoded = reference.decode(their_z).sample
  posterior = jax.jit(lambda tiny, x: tiny.encode(x))(tiny, x)
  check(posterior.mean, latents)
  check(jax.jit(lambda tiny, z: tiny.decode(z))(tiny, z), decoded)
