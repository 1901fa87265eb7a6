"""A discriminator of latents: small heads on states inside the fake denoiser.

  D_k = mean over tokens of Linear(gelu(Linear(norm(h_k))))

for the hidden state h_k of each of some blocks, with the losses of DMD2 (arXiv
2405.14867, section 4.3, and its repository tianweiy/DMD2):

  discriminator   softplus(-D(real)) + softplus(D(generated))
  student         softplus(-D(generated))

As there, each input is noised with a level and noise of its own, the levels
cover the full range, the generated labels are drawn apart from the real ones,
and the generated input of the discriminator has the distribution of that of the
student's term: x0 that the student predicts at a random step of its grid. Ours
is the form of the heads; DMD2's is convolutions on the middle of a U-Net.

SD3.5-Flash (arXiv 2509.21318) resets a head now and then, so that it does not
memorize its inputs.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dit.base import NetworkConfig, Params
from dit.config import DiTConfig
from dit.layers import layer_norm


def default_blocks(depth: int) -> tuple[int, ...]:
  """After each third of the blocks."""
  return tuple(sorted({-(-depth * k // 3) for k in (1, 2, 3)}))


def init(config: NetworkConfig, heads: int, key: jax.Array) -> Params:
  """So many heads, stacked."""
  assert isinstance(config, DiTConfig)  # as `distill.run` checks
  width, keys = config.width, jax.random.split(key, 2)
  return {
    'fc1': {
      'kernel': jax.random.normal(keys[0], (heads, width, width)) * width**-0.5,
      'bias': jnp.zeros((heads, width)),
    },
    'fc2': {
      'kernel': jax.random.normal(keys[1], (heads, width, 1)) * width**-0.5,
      'bias': jnp.zeros((heads, 1)),
    },
  }


def logits(heads: Params, states: Sequence[jax.Array]) -> jax.Array:
  """Returns logits (K, B) of hidden states K x (B, N, D); high means real."""
  h = layer_norm(jnp.stack(states).astype(jnp.float32))
  for name in ('fc1', 'fc2'):
    layer = heads[name]
    h = jnp.einsum('kbnd,kde->kbne', h, layer['kernel'])
    h = h + layer['bias'][:, None, None]
    if name == 'fc1':
      h = jax.nn.gelu(h)
  return h[..., 0].mean(-1)


def reset(
  heads: Params, fresh: Params, key: jax.Array, probability: float
) -> Params:
  """Each head replaced by a fresh one with some probability."""
  count = len(heads['fc1']['bias'])
  drawn = jax.random.bernoulli(key, probability, (count,))
  return jax.tree.map(
    lambda old, new: jnp.where(
      drawn.reshape(-1, *[1] * (old.ndim - 1)), new, old
    ),
    heads,
    fresh,
  )
