"""The fake denoiser as low-rank changes of the teacher (LoRA).

  W <- W + scale down up      for queries and values of every block,

down (D, r) random, up (r, D) zero at first: it begins as the teacher (Hu et al.
2022; the ImageNet recipe of DMDR, arXiv 2511.13649: rank 32, scale 2).
"""

import jax
import jax.numpy as jnp

from dit import model
from dit.config import DiTConfig

# Of the fused projection, whose outputs are queries, keys, values.
_PARTS = ('q', 'k', 'v')
_CHANGED = ('q', 'v')


def init(config: DiTConfig, rank: int, key: jax.Array) -> model.Params:
  """Changes of a network that change nothing yet."""
  depth, width = config.depth, config.width
  keys = dict(zip(_CHANGED, jax.random.split(key, len(_CHANGED)), strict=True))
  return {
    'lora': {
      part: {
        'down': jax.random.normal(keys[part], (depth, width, rank))
        * width**-0.5,
        'up': jnp.zeros((depth, rank, width)),
      }
      for part in _CHANGED
    }
  }


def apply(
  params: model.Params, changes: model.Params, scale: float
) -> model.Params:
  """The network with its changes; `params` stay as they are."""
  blocks = params['blocks']
  attention = blocks['attention']
  kernel = attention['qkv']['kernel']
  lora = changes['lora']
  zeros = jnp.zeros_like(kernel[..., : kernel.shape[-1] // len(_PARTS)])
  change = [
    lora[part]['down'] @ lora[part]['up'] if part in lora else zeros
    for part in _PARTS
  ]
  qkv = {
    **attention['qkv'],
    'kernel': kernel + scale * jnp.concatenate(change, -1).astype(kernel.dtype),
  }
  return {
    **params,
    'blocks': {**blocks, 'attention': {**attention, 'qkv': qkv}},
  }
