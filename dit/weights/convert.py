"""Conversion between published tensors and our config and parameters.

  published Linear.weight (out, in)       ours kernel (in, out)
  published patch conv (D, C, p, p)       ours patch_embed (p * p * C, D), in
                                          the order row, column, channel
  published blocks.{i}.NAME               ours blocks/NAME, stacked (L, ...)

A family is named after the code that wrote the tensors. The family determines
the network's convention (`dit.parameterization`):

  dit               facebookresearch/DiT                   noise
  sit               willisma/SiT                           reversed
  ig_sit            CVL-UESTC/Internal-Guidance, SiT       velocity
  repa              sihyun-yu/REPA (see `repa`)            velocity
  lightningdit      hustvl/LightningDiT                    reversed
  ig_lightningdit   Internal-Guidance, LightningDiT        reversed

The ig_ families have one intermediate head, final_layer_xr. Conversion to our
layout and back is bit exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from core.errors import InputError, check_choice
from dit import model
from dit.base import NetworkConfig
from dit.config import DiTConfig
from dit.weights import repa

Tensors = dict[str, np.ndarray]


class Family(NamedTuple):
  """The networks that a family's code supports.

  Attributes:
    convention: Convention of the networks.
    inside: Whether the networks have one intermediate head.
    options: Whether norm, MLP, rotary positions and shift can vary.
  """

  convention: str
  inside: bool
  options: bool


FAMILIES = {
  'dit': Family('noise', inside=False, options=False),
  'sit': Family('reversed', inside=False, options=False),
  'ig_sit': Family('velocity', inside=True, options=False),
  'repa': Family('velocity', inside=False, options=False),
  'lightningdit': Family('reversed', inside=False, options=True),
  'ig_lightningdit': Family('reversed', inside=True, options=True),
}


class Layout(NamedTuple):
  """The conversions of an array to our layout and to the published layout."""

  ours: Callable[[np.ndarray, DiTConfig], np.ndarray]
  published: Callable[[np.ndarray, DiTConfig], np.ndarray]


def _from_conv(conv: np.ndarray, config: DiTConfig) -> np.ndarray:
  """(D, C, p, p) -> (p * p * C, D)."""
  return conv.transpose(2, 3, 1, 0).reshape(-1, config.width)


def _to_conv(kernel: np.ndarray, config: DiTConfig) -> np.ndarray:
  """(p * p * C, D) -> (D, C, p, p)."""
  shape = (config.patch, config.patch, config.channels, config.width)
  return kernel.reshape(shape).transpose(3, 2, 0, 1)


_SAME = Layout(lambda a, _: a, lambda a, _: a)
_LINEAR = Layout(lambda a, _: a.T, lambda a, _: a.T)
_BATCHED = Layout(lambda a, _: a[0], lambda a, _: a[None])
_PATCH = Layout(_from_conv, _to_conv)


class Entry(NamedTuple):
  """A published tensor, and its position in our parameters."""

  name: str
  path: str  # such as 'blocks/mlp/fc1/kernel'
  row: int | None  # index along the leading axis of stacked parameters
  layout: Layout


def entries(config: DiTConfig) -> Iterator[Entry]:
  """Yields every published tensor of a network."""

  def linear(name, path, index=None, kernel=_LINEAR):
    yield Entry(f'{name}.weight', f'{path}/kernel', index, kernel)
    yield Entry(f'{name}.bias', f'{path}/bias', index, _SAME)

  def norm(name, path, index=None, bias=False):
    yield Entry(f'{name}.weight', f'{path}/scale', index, _SAME)
    if bias:
      yield Entry(f'{name}.bias', f'{path}/bias', index, _SAME)

  def head(name, path, index=None):
    if config.norm == 'rmsnorm':
      yield from norm(f'{name}.norm_final', f'{path}/norm', index)
    yield from linear(f'{name}.linear', f'{path}/proj', index)
    yield from linear(f'{name}.adaLN_modulation.1', f'{path}/modulation', index)

  yield Entry('pos_embed', 'position', None, _BATCHED)
  if config.rope:
    yield Entry('feat_rope.freqs_cos', 'rotary', 0, _SAME)
    yield Entry('feat_rope.freqs_sin', 'rotary', 1, _SAME)
  yield from linear('x_embedder.proj', 'patch_embed', kernel=_PATCH)
  yield from linear('t_embedder.mlp.0', 'time_embed/fc1')
  yield from linear('t_embedder.mlp.2', 'time_embed/fc2')
  yield Entry('y_embedder.embedding_table.weight', 'label_embed', None, _SAME)
  fc1, fc2 = ('w12', 'w3') if config.mlp == 'swiglu' else ('fc1', 'fc2')
  for i in range(config.depth):
    name = f'blocks.{i}'
    if config.norm == 'rmsnorm':
      yield from norm(f'{name}.norm1', 'blocks/norm_1', i)
      yield from norm(f'{name}.norm2', 'blocks/norm_2', i)
    yield from linear(f'{name}.attn.qkv', 'blocks/attention/qkv', i)
    if config.qk_norm != 'none':
      for part in ('q_norm', 'k_norm'):
        yield from norm(
          f'{name}.attn.{part}',
          f'blocks/attention/{part}',
          i,
          bias=config.qk_norm == 'layernorm',
        )
    yield from linear(f'{name}.attn.proj', 'blocks/attention/proj', i)
    yield from linear(f'{name}.mlp.{fc1}', 'blocks/mlp/fc1', i)
    yield from linear(f'{name}.mlp.{fc2}', 'blocks/mlp/fc2', i)
    yield from linear(f'{name}.adaLN_modulation.1', 'blocks/modulation', i)
  yield from head('final_layer', 'head')
  if config.taps:
    yield from head('final_layer_xr', 'tap_heads', 0)


def published_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every published tensor, by name."""
  leaves = flatten(model.shapes(config))

  def shape(entry: Entry) -> tuple[int, ...]:
    our_shape = leaves[entry.path].shape[entry.row is not None :]
    # The broadcast array has strides of 0 and needs no memory.
    return entry.layout.published(np.broadcast_to(0.0, our_shape), config).shape

  return {entry.name: shape(entry) for entry in entries(config)}


def from_published(
  tensors: Mapping[str, np.ndarray],
  *,
  family: str,
  num_heads: int,
  taps: Sequence[int] = (),
  null_label: bool = True,
) -> tuple[DiTConfig, dict[str, Any]]:
  """Converts published tensors to a configuration and float32 parameters.

  Tensor names and shapes determine all settings except the arguments below.

  Args:
    tensors: Tensors by published name.
    family: One of FAMILIES.
    num_heads: Number of attention heads.
    taps: (k,) for ig_ families, whose head follows the first k blocks; else ().
    null_label: Whether the last label is the null label.

  Raises:
    InputError: if a tensor is missing, unknown or misshapen.
  """
  check_choice('family', family, FAMILIES)
  if family == 'repa':
    tensors = repa.without_projectors(tensors)
  config = _infer(tensors, family, num_heads, taps, null_label)
  _check_family(config, family)
  shapes = published_shapes(config)
  _check_names('published tensor', tensors, shapes, f'family {family}')
  arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
  for name, shape in shapes.items():  # checked before `params` is allocated
    _check_array(f'published tensor {name!r}', arrays[name], shape)
  params = {
    path: np.empty(leaf.shape, np.float32)
    for path, leaf in flatten(model.shapes(config)).items()
  }
  for entry in entries(config):
    array = entry.layout.ours(arrays[entry.name], config)
    params[entry.path][... if entry.row is None else entry.row] = array
  return config, unflatten(params)


def to_published(
  config: NetworkConfig, params: Mapping[str, Any], *, family: str
) -> Tensors:
  """Converts parameters of any precision to float32 published tensors.

  `family` is one of FAMILIES, and must have the network's convention.

  Raises:
    InputError: if the family does not support the network, or a parameter is
      missing, unknown or misshapen.
  """
  check_choice('family', family, FAMILIES)
  if not isinstance(config, DiTConfig):
    raise InputError(
      f'a file of family {family} holds a transformer of dit/model.py, but '
      f'this network has a {type(config).__name__}.'
    )
  _check_family(config, family)
  leaves, shapes = flatten(params), flatten(model.shapes(config))
  _check_names('parameter', leaves, shapes, 'the configuration')
  for path, leaf in shapes.items():
    _check_array(f'parameter {path!r}', np.asarray(leaves[path]), leaf.shape)

  def tensor(entry: Entry) -> np.ndarray:
    array = np.asarray(leaves[entry.path], np.float32)
    if entry.row is not None:
      array = array[entry.row]
    return np.array(entry.layout.published(array, config), order='C')

  return {entry.name: tensor(entry) for entry in entries(config)}


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Maps paths such as 'blocks/mlp/fc1/kernel' to the leaves of a tree."""
  return traverse_util.flatten_dict(tree, sep='/')


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Inverts `flatten`."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def _infer(
  tensors: Mapping[str, np.ndarray],
  family: str,
  num_heads: int,
  taps: Sequence[int],
  null_label: bool,
) -> DiTConfig:
  def shape(name: str, rank: int) -> tuple[int, ...]:
    if name not in tensors:
      raise InputError(
        f'published tensor {name!r} is missing; is the file of family {family}?'
      )
    shape = np.shape(tensors[name])
    if len(shape) != rank or 0 in shape:
      raise InputError(
        f'published tensor {name!r} has shape {shape}, expected {rank} axes.'
      )
    return shape

  width, channels, patch, _ = shape('x_embedder.proj.weight', 4)
  _, tokens, _ = shape('pos_embed', 3)
  side = round(tokens**0.5)
  if side**2 != tokens:
    raise InputError(
      f'published tensor pos_embed has {tokens} tokens, not a square number; '
      'only square latents are supported.'
    )
  # This check comes first, since the computation of shapes allocates tables.
  _check_array(
    "published tensor 'pos_embed'",
    np.asarray(tensors['pos_embed']),
    (1, tokens, width),
  )
  swiglu = 'blocks.0.mlp.w12.weight' in tensors
  rmsnorm = 'blocks.0.norm1.weight' in tensors
  qk_norm = 'none'
  if 'blocks.0.attn.q_norm.weight' in tensors:
    biased = 'blocks.0.attn.q_norm.bias' in tensors
    qk_norm = 'layernorm' if biased else 'rmsnorm'
  _, hidden = shape(f'blocks.0.mlp.{"w3" if swiglu else "fc2"}.weight', 2)
  outputs, _ = shape('final_layer.linear.weight', 2)
  modulation, _ = shape('blocks.0.adaLN_modulation.1.weight', 2)
  classes, _ = shape('y_embedder.embedding_table.weight', 2)
  blocks = {name.split('.')[1] for name in tensors if name[:7] == 'blocks.'}
  if swiglu and hidden == 8 * width // 3:
    mlp_ratio = 4.0
  else:  # the smallest ratio that gives this hidden width
    mlp_ratio = (-(-3 * hidden // 2) if swiglu else hidden) / width
  return DiTConfig(
    size=side * patch,
    channels=channels,
    num_classes=classes - null_label,
    null_label=null_label,
    patch=patch,
    depth=len(blocks),
    width=width,
    num_heads=num_heads,
    mlp_ratio=mlp_ratio,
    taps=tuple(taps),
    norm='rmsnorm' if rmsnorm else 'layernorm',
    mlp='swiglu' if swiglu else 'gelu',
    rope='feat_rope.freqs_cos' in tensors,
    qk_norm=qk_norm,
    shift=modulation != 4 * width,
    learned_variance=outputs == 2 * patch**2 * channels,
    convention=FAMILIES[family].convention,
  )


def _check_family(config: DiTConfig, family: str) -> None:
  traits = FAMILIES[family]
  if traits.inside and len(config.taps) != 1:
    raise InputError(
      f'family {family} has one intermediate head (final_layer_xr), but taps '
      f'is {config.taps}: give the number of blocks before it, such as '
      'taps=(8,) for the published XL networks.'
    )
  if config.taps and not traits.inside:
    raise InputError(
      f'family {family} has no intermediate head, but taps is {config.taps}; '
      'give no taps, or a family ig_...'
    )
  if config.taps and config.tap_head != 'linear':
    raise InputError(
      f'family {family} has linear intermediate heads, but tap_head is '
      f'{config.tap_head!r}; convert to a folder.'
    )
  if config.convention != traits.convention:
    raise InputError(
      f'a network of convention {config.convention!r} cannot become family '
      f'{family}, which has {traits.convention!r}; choose one of '
      + ', '.join(
        name
        for name, entry in FAMILIES.items()
        if entry.convention == config.convention
      )
      + '.'
    )
  defaults = {'norm': 'layernorm', 'mlp': 'gelu', 'rope': False, 'shift': True}
  for field, value in defaults.items():
    if not traits.options and getattr(config, field) != value:
      raise InputError(
        f'family {family} has {field} = {value!r} only, but the network has '
        f'{getattr(config, field)!r}.'
      )


def _check_names(
  kind: str, tensors: Mapping[str, Any], shapes: Mapping[str, Any], source: str
) -> None:
  gaps = [name for name in shapes if name not in tensors]
  if gaps:
    raise InputError(
      f'{kind} {gaps[0]!r} is missing ({len(gaps)} of {len(shapes)} that '
      f'{source} needs are).'
    )
  extras = sorted(tensors.keys() - shapes.keys())
  if extras:
    raise InputError(
      f'{kind} {extras[0]!r} has no place in {source} ({len(extras)} of '
      f'{len(tensors)} have none).'
    )


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
  """Raises InputError if `array` is not floating point or its shape differs."""
  if array.shape != shape:
    raise InputError(f'{name} has shape {array.shape}, expected {shape}.')
  # numpy's `kind` of bfloat16 is V, not f.
  if array.dtype.kind != 'f' and array.dtype.name != 'bfloat16':
    raise InputError(f'{name} has dtype {array.dtype}, expected floats.')
