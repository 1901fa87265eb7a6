"""A latent discriminator: small heads on hidden states of the fake denoiser.

Each head reads the hidden state h_k after one chosen block:

  D_k = mean over tokens of Linear(gelu(Linear(norm(h_k))))

DMD2 (arXiv 2405.14867, section 4.3, and repository tianweiy/DMD2) has the same
losses:

  discriminator   softplus(-D(real)) + softplus(D(generated))
  student         softplus(-D(generated))

As in DMD2, each input has independent noise and a noise level from the full
range. Labels of generated and real inputs are independent, as in DMD2. In both
losses, the generated input is the x0 that the student predicts at a random step
of its grid. The architecture of the heads is ours. In DMD2, the discriminator
consists of convolutions on the middle of a U-Net.

SD3.5-Flash (arXiv 2509.21318) resets heads at random to prevent memorization.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dit.base import NetworkConfig, Params
from dit.config import DiTConfig
from dit.layers import layer_norm
from dit.sharding import constrain_batch


def default_blocks(depth: int) -> tuple[int, ...]:
  """Returns the last block of each third of a network with `depth` blocks."""
  return tuple(sorted({-(-depth * k // 3) for k in (1, 2, 3)}))


def init(config: NetworkConfig, heads: int, key: jax.Array) -> Params:
  """Returns initial parameters of several heads, stacked along axis 0."""
  assert isinstance(config, DiTConfig)  # `distill.run` rejects other networks
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
  """Returns logits (K, B) of K hidden states (B, N, D); high means real."""
  # Without `constrain_batch`, XLA computes a wrong gradient of the states if
  # each of the three axes of a mesh has several devices.
  states = [constrain_batch(state) for state in states]
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
  """Reinitializes each head with the given probability."""
  count = len(heads['fc1']['bias'])
  mask = jax.random.bernoulli(key, probability, (count,))
  return jax.tree.map(
    lambda old, new: jnp.where(
      mask.reshape(-1, *[1] * (old.ndim - 1)), new, old
    ),
    heads,
    fresh,
  )
