"""The fake denoiser as low-rank changes of the teacher (LoRA).

The changes apply to the projected queries and values of each block, before norm
and rotation. For queries q = h W + b:

  q <- q + scale q A B

A (D, r) is initially standard normal, and B (r, D) is zero, so the initial fake
denoiser equals the teacher. This is the LoRA of DMDR's repository
(vvvvvjdy/dmdr, arXiv 2511.13649), with rank 32 and scale 2. In contrast, Hu et
al. 2022 add a multiple of h A B. A learning rate suits only one variance of A:
q A B grows with A, but Adam's updates of B do not.

The change is linear in q, so the code merges the change into the projection:

  W <- W + scale W A B,   b <- b + scale b A B
"""

import jax
import jax.numpy as jnp

from dit.base import NetworkConfig, Params
from dit.config import DiTConfig

# Name of this form of LoRA in teacher.json.
KIND = 'projected'
# Parts of the fused query-key-value projection, in order.
_PARTS = ('q', 'k', 'v')
_CHANGED = ('q', 'v')


def init(config: NetworkConfig, rank: int, key: jax.Array) -> Params:
  """Returns initial LoRA factors; their product is 0."""
  assert isinstance(config, DiTConfig)  # `distill.run` rejects other networks
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
  """Returns the teacher's parameters with the changes merged into them."""
  blocks = params['blocks']
  attention = blocks['attention']
  lora = changes['lora']

  def change(part, leaf):  # `leaf` is a kernel (L, D, D) or a bias (L, 1, D)
    if part not in lora:
      return leaf
    down, up = lora[part]['down'], lora[part]['up']
    return leaf + (scale * (leaf @ down @ up)).astype(leaf.dtype)

  def merge(leaf):
    parts = zip(_PARTS, jnp.split(leaf, len(_PARTS), -1), strict=True)
    return jnp.concatenate([change(*part) for part in parts], -1)

  qkv = {
    **attention['qkv'],
    'kernel': merge(attention['qkv']['kernel']),
    'bias': merge(attention['qkv']['bias'][:, None])[:, 0],
  }
  return {
    **params,
    'blocks': {**blocks, 'attention': {**attention, 'qkv': qkv}},
  }
