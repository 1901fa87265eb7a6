"""The fake denoiser as low-rank changes of the teacher (LoRA).

  q <- q + scale q A B      for the projected queries and values of each block,
                            before their norm and rotation

A (D, r) is standard normal and B (r, D) zero at first, so that the fake
denoiser begins as the teacher. This is the LoRA of DMDR's repository
(vvvvvjdy/dmdr, arXiv 2511.13649), with its rank of 32 and its scale of 2; that
of Hu et al. 2022 acts on the input of the projection. Adam moves B at the same
rate whatever A is, and q A B moves with the size of A: a learning rate belongs
to one variance of A.

The change is linear in q = h W + b, so it is merged into the projection:

  W <- W + scale W A B,   b <- b + scale b A B
"""

import jax
import jax.numpy as jnp

from dit.base import NetworkConfig, Params
from dit.config import DiTConfig

# Name of this kind of changes, by which a run recognizes its own.
KIND = 'projected'
# Parts of the fused projection, whose outputs are queries, keys, values.
_PARTS = ('q', 'k', 'v')
_CHANGED = ('q', 'v')


def init(config: NetworkConfig, rank: int, key: jax.Array) -> Params:
  """Returns initial changes, under which the network stays the same."""
  assert isinstance(config, DiTConfig)  # as `distill.run` checks
  depth, width = config.depth, config.width
  keys = dict(zip(_CHANGED, jax.random.split(key, len(_CHANGED)), strict=True))
  return {
    'lora': {
      part: {
        'down': jax.random.normal(keys[part], (depth, width, rank)),
        'up': jnp.zeros((depth, rank, width)),
      }
      for part in _CHANGED
    }
  }


def apply(params: Params, changes: Params, scale: jax.Array | float) -> Params:
  """Returns the network with its changes; `params` stay as they are."""
  blocks = params['blocks']
  attention = blocks['attention']
  lora = changes['lora']

  def changed(part, leaf):  # (L, rows, D) of a kernel or, as one row, a bias
    if part not in lora:
      return leaf
    down, up = lora[part]['down'], lora[part]['up']
    return leaf + (scale * (leaf @ down @ up)).astype(leaf.dtype)

  def merged(leaf):
    parts = zip(_PARTS, jnp.split(leaf, len(_PARTS), -1), strict=True)
    return jnp.concatenate([changed(*part) for part in parts], -1)

  qkv = {
    **attention['qkv'],
    'kernel': merged(attention['qkv']['kernel']),
    'bias': merged(attention['qkv']['bias'][:, None])[:, 0],
  }
  return {
    **params,
    'blocks': {**blocks, 'attention': {**attention, 'qkv': qkv}},
  }
