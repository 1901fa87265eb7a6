"""Conversion of published autoencoder tensors to config and parameters.

  published conv.weight (out, in, h, w)    ours kernel (h, w, in, out)
  published linear.weight (out, in)        ours kernel (1, 1, in, out)
  published norm.weight, bias              ours scale, bias

Files of KL autoencoders (SD-VAE, VA-VAE) have the tensor names of ldm (the
original code) or of diffusers. Our names are the names of ldm. In diffusers,
the parts in `_DIFFUSERS` have other names, and `up_blocks` are in execution
order; in ldm, `up` starts at the highest resolution. In files of tiny
autoencoders, names are positions in the list of layers. Each original file has
the encoder or the decoder, with positions from 0. Files of diffusers add
prefixes and omit layer 0 of the decoder. float16 becomes float32.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from core.errors import InputError
from dit.autoencoder.base import HALVES, Params, shapes
from dit.autoencoder.kl import KLConfig
from dit.autoencoder.tiny import TinyConfig

Tensors = Mapping[str, np.ndarray]

# Parts of tensor names in ldm, and the matching parts in diffusers.
_DIFFUSERS = {
  'down': 'down_blocks',
  'up': 'up_blocks',
  'block': 'resnets',
  'attn': 'attentions',
  'downsample': 'downsamplers.0',
  'upsample': 'upsamplers.0',
  'mid': 'mid_block',
  'block_1': 'resnets.0',
  'attn_1': 'attentions.0',
  'block_2': 'resnets.1',
  'nin_shortcut': 'conv_shortcut',
  'norm_out': 'conv_norm_out',
  'norm': 'group_norm',
  'q': 'to_q',
  'k': 'to_k',
  'v': 'to_v',
  'proj_out': 'to_out.0',
}
# Parts of names in older files of diffusers, such as Stable Diffusion 1.
_OLD_DIFFUSERS = _DIFFUSERS | {
  'q': 'query',
  'k': 'key',
  'v': 'value',
  'proj_out': 'proj_attn',
}
_KL_ROOTS = ('encoder.', 'decoder.', 'quant_conv.', 'post_quant_conv.')
_KL_BLOCK = re.compile(
  r'(?:encoder\.down|decoder\.up)(?:_blocks)?\.(\d+)\.(?:block|resnets)\.(\d+)\.'
)


def kl_from_published(
  *files: Tensors, norm_groups: int = 32, dtype: str = 'auto'
) -> tuple[KLConfig, Params]:
  """Converts a KL autoencoder to a configuration and float32 parameters.

  The function ignores tensors outside encoder, decoder, quant_conv and
  post_quant_conv, such as training losses, VA-VAE's alignment and the rest of
  Stable Diffusion.

  Args:
    *files: Tensors by published name: one dictionary for each file. The encoder
      or the decoder may be missing.
    norm_groups: Number of norm groups, which tensor shapes do not determine.
    dtype: Type of activations; see AutoencoderConfig.

  Raises:
    InputError: if a tensor is missing, unknown or misshapen.
  """
  tensors = {
    # Full Stable Diffusion checkpoints have this prefix.
    name.removeprefix('first_stage_model.'): tensor
    for file in files
    for name, tensor in file.items()
  }
  if len(tensors) < sum(map(len, files)):
    raise InputError('two of these files hold the same half; give one of each.')
  tensors = {n: tensors[n] for n in tensors if n.startswith(_KL_ROOTS)}
  halves = [h for h in HALVES if any(n.startswith(f'{h}.') for n in tensors)]
  if not halves:
    raise InputError(
      'no tensor is named encoder.* or decoder.*; give the weights of a KL '
      'autoencoder.'
    )
  rename: dict[str, str] = {}
  if any('.mid_block.' in name for name in tensors):
    old = any('.query.' in name for name in tensors)
    rename = _OLD_DIFFUSERS if old else _DIFFUSERS
  blocks = [m for m in map(_KL_BLOCK.match, tensors) if m]
  levels = 1 + max((int(m[1]) for m in blocks), default=0)

  def name_of(path: str) -> str:
    parts = path.split('.')
    if 'quant_conv' in parts[1]:
      del parts[0]
    elif rename and parts[1] == 'up':
      parts[2] = str(levels - 1 - int(parts[2]))
    return '.'.join(rename.get(part, part) for part in parts)

  def shape_of(path: str) -> tuple[int, ...]:
    return _kernel_shape(tensors, f'{name_of(path)}.weight')

  if 'encoder' in halves:
    stage, diff = 'encoder.down', 0
    latent_channels = shape_of('encoder.quant_conv')[0] // 2
    image_channels = shape_of('encoder.conv_in')[1]
  else:
    stage, diff = 'decoder.up', 1
    latent_channels = shape_of('decoder.post_quant_conv')[0]
    image_channels = shape_of('decoder.conv_out')[0]
  config = KLConfig(
    widths=tuple(
      shape_of(f'{stage}.{i}.block.0.conv1')[0] for i in range(levels)
    ),
    layers=1 + max(int(m[2]) for m in blocks if m[0].startswith(stage)) - diff,
    attention_levels=tuple(
      i
      for i in range(levels)
      if f'{name_of(f"{stage}.{i}.attn.0.q")}.weight' in tensors
    ),
    latent_channels=latent_channels,
    image_channels=image_channels,
    norm_groups=norm_groups,
    dtype=dtype,
  )
  targets = {half: shapes(config)[half] for half in halves}
  return config, _fill(targets, tensors, name_of)


def tiny_from_published(
  *files: Tensors, dtype: str = 'auto'
) -> tuple[TinyConfig, Params]:
  """Converts a tiny autoencoder (TAESD); see `kl_from_published`.

  `files` are one or both original files in any order, or one diffusers file.
  """
  halves = {}  # for each half: tensors, name prefix, number of omitted layers
  for file in files:
    if not any(n.startswith(('encoder.', 'decoder.')) for n in file):
      # Layers 1 and 19 are convolutions only in the decoder.
      decoder = {'1.weight', '19.weight'} & file.keys()
      half = HALVES[bool(decoder)]
      if half in halves:
        raise InputError(f'two of these files hold the {half}; give one.')
      halves[half] = (file, '', 0)
    for offset, half in enumerate(HALVES):
      part = {n: file[n] for n in file if n.startswith(f'{half}.')}
      if part:
        halves[half] = (part, f'{half}.layers.', offset)

  def name_of(path: str, half: str) -> str:
    _, prefix, left_out = halves[half]
    position, *rest = (part for part in path.split('.') if part != 'layers')
    return '.'.join([f'{prefix}{int(position) - left_out}', *rest])

  def shape_of(position: int, half: str) -> tuple[int, ...]:
    name = f'{name_of(str(position), half)}.weight'
    return _kernel_shape(halves[half][0], name)

  if 'encoder' in halves:
    latent_channels, width, *_ = shape_of(14, 'encoder')
    image_channels = shape_of(0, 'encoder')[1]
  else:
    width, latent_channels, *_ = shape_of(1, 'decoder')
    image_channels = shape_of(19, 'decoder')[0]
  config = TinyConfig(
    latent_channels=latent_channels,
    image_channels=image_channels,
    width=width,
    normed=any('.pool.' in name for file in files for name in file),
    dtype=dtype,
  )
  params = {
    half: _fill(
      shapes(config)[half], tensors, functools.partial(name_of, half=half)
    )
    for half, (tensors, *_) in halves.items()
  }
  return config, params


def _get(tensors: Tensors, name: str) -> np.ndarray:
  if name not in tensors:
    raise InputError(f'published tensor {name!r} is missing.')
  return tensors[name]


def _kernel_shape(tensors: Tensors, name: str) -> tuple[int, ...]:
  shape = np.shape(_get(tensors, name))
  if len(shape) != 4:
    raise InputError(
      f'published tensor {name!r} has shape {shape}, expected 4 axes.'
    )
  return shape


def _fill(
  targets: Params, tensors: Tensors, name_of: Callable[[str], str]
) -> Params:
  """Replaces each shape in `targets` by a tensor; uses every tensor once.

  `name_of` maps a module's path 'a.b.c' in `targets` to the published name.
  """
  rest = dict(tensors)

  def take(path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> np.ndarray:
    *module, kind = (str(entry.key) for entry in path)
    suffix = 'bias' if kind == 'bias' else 'weight'
    name = f'{name_of(".".join(module))}.{suffix}'
    tensor, shape = np.asarray(_get(rest, name), np.float32), leaf.shape
    del rest[name]
    if kind == 'kernel':
      shape = tuple(shape[axis] for axis in (3, 2, 0, 1))
      if shape == (*tensor.shape, 1, 1):  # a linear layer
        tensor = tensor.reshape(shape)
    if tensor.shape != shape:
      raise InputError(
        f'published tensor {name!r} has shape {tensor.shape}, expected {shape}.'
      )
    return tensor.transpose(2, 3, 1, 0) if kind == 'kernel' else tensor

  params = jax.tree.map_with_path(take, targets)
  if rest:
    raise InputError(
      f'{len(rest)} published tensors have no place in the autoencoder: '
      f'{", ".join(sorted(rest)[:5])}.'
    )
  return params
