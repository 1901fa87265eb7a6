"""Against the DiT of diffusers with random weights, where torch is installed.

Diffusers departs from DiT's own code, which tests/golden has, in two constants:
frequencies 10000^(-k / 127) for 10000^(-k / 128), and epsilon 1e-5 in the
second norm of a block for 1e-6. The test sets both to the published ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit import model
from dit.embed import position_table
from dit.path import path_named
from dit.weights import convert

REASON = 'needs torch and diffusers: pip install -r requirements-torch.txt'
pytestmark = pytest.mark.filterwarnings('ignore')  # theirs, not ours
HEADS, WIDTH, CLASSES, DEPTH, SIDE, PATCH = 4, 64, 10, 3, 8, 2
# Ours of DiT's own code: diffusers'.
NAMES = {
  'attn.proj': 'attn1.to_out.0',
  'mlp.fc1': 'ff.net.0.proj',
  'mlp.fc2': 'ff.net.2',
  'adaLN_modulation.1': 'norm1.linear',
}


@pytest.fixture(scope='module')
def reference():
  """A network without a parameter at a special value such as zero."""
  torch = pytest.importorskip('torch', reason=REASON)
  diffusers = pytest.importorskip('diffusers', reason=REASON)
  network = diffusers.DiTTransformer2DModel(
    num_attention_heads=HEADS,
    attention_head_dim=WIDTH // HEADS,
    in_channels=4,
    out_channels=8,
    num_layers=DEPTH,
    sample_size=SIDE,
    patch_size=PATCH,
    num_embeds_ada_norm=CLASSES,
    norm_eps=1e-6,
  )
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in network.parameters():
      parameter.normal_(0, 0.1, generator=generator)
  embedders = [block.norm1.emb for block in network.transformer_blocks]
  for embedder in embedders:
    embedder.time_proj.downscale_freq_shift = 0
    # Every block has a copy; in a published network they are equal.
    embedder.load_state_dict(embedders[0].state_dict())
  return network.eval()


def published(network):
  """Its tensors under the names of DiT's own code."""
  theirs = {name: t.numpy() for name, t in network.state_dict().items()}
  ours = {'pos_embed': position_table(SIDE // PATCH, WIDTH)[None]}
  first = 'transformer_blocks.0.norm1.emb'
  ours['y_embedder.embedding_table.weight'] = theirs[
    f'{first}.class_embedder.embedding_table.weight'
  ]
  modules = {
    'x_embedder.proj': 'pos_embed.proj',
    't_embedder.mlp.0': f'{first}.timestep_embedder.linear_1',
    't_embedder.mlp.2': f'{first}.timestep_embedder.linear_2',
    'final_layer.adaLN_modulation.1': 'proj_out_1',
    'final_layer.linear': 'proj_out_2',
  }
  for i in range(DEPTH):
    block = f'transformer_blocks.{i}'
    for name, other in NAMES.items():
      modules[f'blocks.{i}.{name}'] = f'{block}.{other}'
  for kind in ('weight', 'bias'):
    for name, other in modules.items():
      ours[f'{name}.{kind}'] = theirs[f'{other}.{kind}']
    for i in range(DEPTH):
      attention = f'transformer_blocks.{i}.attn1'
      parts = [theirs[f'{attention}.to_{p}.{kind}'] for p in 'qkv']
      ours[f'blocks.{i}.attn.qkv.{kind}'] = np.concatenate(parts)
  return ours


def test_dit(reference):
  import torch

  config, params = convert.from_published(
    published(reference), family='dit', num_heads=HEADS
  )
  denoiser = model.bind(config, jax.tree.map(jnp.asarray, params))
  rng = np.random.default_rng(0)
  x = rng.standard_normal((4, SIDE, SIDE, 4), np.float32)
  step, label = np.array([0, 17, 500, 999]), np.array([0, 3, 9, CLASSES])
  with torch.no_grad():
    theirs = reference(
      torch.from_numpy(x).permute(0, 3, 1, 2),
      timestep=torch.from_numpy(step),
      class_labels=torch.from_numpy(label),
    ).sample
  theirs = theirs.permute(0, 2, 3, 1).numpy()
  t = jnp.asarray((step + 1) / 1000)
  out = jax.jit(lambda *args: denoiser(*args))(x, t, label)
  noise = path_named('discrete').noise_from_velocity(x, out.velocity, t)
  ours = np.concatenate([noise, out.variance], axis=-1)
  assert np.linalg.norm(ours - theirs) < 2e-5 * np.linalg.norm(theirs)
