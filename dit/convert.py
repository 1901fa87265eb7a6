"""Published tensors to our tree of parameters, in numpy.

  published Linear.weight (out, in)       ours kernel (in, out)
  published patch conv (D, C, p, p)       ours patch_embed (p * p * C, D), our
                                          patches being (row, column, channel)
  published blocks.{i}.NAME               ours blocks/NAME, stacked (L, ...)

Family `ig_sit`: the SiT of Internal Guidance (arXiv 2512.24176, section 6 of
its layout). Its head after block k is called final_layer_xr.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dit.config import DiTConfig, check_choice
from dit.types import InputError

FAMILIES = ('ig_sit',)

# Ours, without the leaf: published, without the leaf.
_BLOCK = {
  'attention/qkv': 'attn.qkv',
  'attention/proj': 'attn.proj',
  'mlp/fc1': 'mlp.fc1',
  'mlp/fc2': 'mlp.fc2',
  'modulation': 'adaLN_modulation.1',
}
_QK_NORM = {
  'attention/q_norm': 'attn.q_norm',
  'attention/k_norm': 'attn.k_norm',
}
_HEAD = {'modulation': 'adaLN_modulation.1', 'proj': 'linear'}
_TIME = {
  'time_embed/fc1': 't_embedder.mlp.0',
  'time_embed/fc2': 't_embedder.mlp.2',
}


class _Tensors:
  """Published tensors, each taken once."""

  def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
    self._left = dict(tensors)

  def __contains__(self, name: str) -> bool:
    return name in self._left

  def take(self, name: str, *shape: int | None) -> np.ndarray:
    """The tensor, checked against the shape; None stands for any size."""
    if name not in self._left:
      raise InputError(f'published tensor {name!r} is missing.')
    tensor = np.asarray(self._left.pop(name))
    fits = len(shape) == tensor.ndim and all(
      want in (None, have)
      for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
      raise InputError(
        f'published tensor {name!r} has shape {tensor.shape}, expected {shape}.'
      )
    return tensor

  def linear(self, name: str, inputs: int, outputs: int | None = None):
    """A linear layer as kernel and bias."""
    kernel = self.take(f'{name}.weight', outputs, inputs).T
    return {
      'kernel': kernel,
      'bias': self.take(f'{name}.bias', kernel.shape[1]),
    }

  def finish(self) -> None:
    """Raises InputError if tensors are left over."""
    if self._left:
      raise InputError(
        f'{len(self._left)} published tensors have no place in the network: '
        f'{", ".join(sorted(self._left)[:5])}.'
      )


def from_published(
  tensors: Mapping[str, np.ndarray],
  *,
  family: str,
  num_heads: int,
  taps: Sequence[int] = (),
) -> tuple[DiTConfig, dict[str, Any]]:
  """Converts published tensors.

  Args:
    tensors: by their published names.
    family: one of FAMILIES.
    num_heads: attention heads; the shapes do not tell.
    taps: the number of blocks before the intermediate head.

  Returns:
    The network's configuration, inferred from names and shapes, and its
    parameters as float32 nested dictionaries.

  Raises:
    InputError: for a missing, left over or misshapen tensor, naming it.
  """
  check_choice('family', family, FAMILIES)
  source = _Tensors(tensors)
  patch_kernel = source.take('x_embedder.proj.weight', None, None, None, None)
  width, channels, patch, _ = patch_kernel.shape
  position = source.take('pos_embed', 1, None, width)[0]
  label_embed = source.take('y_embedder.embedding_table.weight', None, width)
  depth = len({name.split('.')[1] for name in tensors if name[:7] == 'blocks.'})
  qk_norm = 'blocks.0.attn.q_norm.weight' in source

  params: dict[str, Any] = {
    'patch_embed': {
      'kernel': patch_kernel.transpose(2, 3, 1, 0).reshape(-1, width),
      'bias': source.take('x_embedder.proj.bias', width),
    },
    'position': position,
    'label_embed': label_embed,
    'head': _head(source, 'final_layer', width),
  }
  for (ours, theirs), inputs in zip(_TIME.items(), (None, width), strict=True):
    _put(params, ours, source.linear(theirs, inputs, width))
  if taps:
    heads = [_head(source, 'final_layer_xr', width)]
    if len(taps) != 1:
      raise InputError(f'family {family} has one head inside, taps {taps}.')
    params['tap_heads'] = _stack(heads)
  blocks = [
    _block(source, f'blocks.{i}.', width, qk_norm) for i in range(depth)
  ]
  params['blocks'] = _stack(blocks)
  source.finish()

  config = DiTConfig(
    size=round(len(position) ** 0.5) * patch,
    channels=channels,
    num_classes=len(label_embed) - 1,
    patch=patch,
    depth=depth,
    width=width,
    num_heads=num_heads,
    mlp_ratio=blocks[0]['mlp']['fc1']['bias'].size / width,
    taps=tuple(taps),
    qk_norm='layernorm' if qk_norm else 'none',
  )
  return config, params


def _head(source: _Tensors, name: str, width: int) -> dict[str, Any]:
  return {
    ours: source.linear(f'{name}.{theirs}', width)
    for ours, theirs in _HEAD.items()
  }


def _block(source: _Tensors, prefix: str, width: int, qk_norm: bool):
  block: dict[str, Any] = {}
  for ours, theirs in _BLOCK.items():
    inputs = width if ours != 'mlp/fc2' else None
    _put(block, ours, source.linear(prefix + theirs, inputs))
  for ours, theirs in _QK_NORM.items() if qk_norm else ():
    norm = {
      'scale': source.take(f'{prefix}{theirs}.weight', None),
      'bias': source.take(f'{prefix}{theirs}.bias', None),
    }
    _put(block, ours, norm)
  return block


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
  """Sets tree[a][b]... for path 'a/b/...'."""
  *parents, last = path.split('/')
  for parent in parents:
    tree = tree.setdefault(parent, {})
  tree[last] = value


def _stack(trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Stacks equal trees along a new leading axis."""
  first = trees[0]
  return {
    key: _stack([tree[key] for tree in trees])
    if isinstance(first[key], dict)
    else np.stack([tree[key] for tree in trees])
    for key in first
  }
