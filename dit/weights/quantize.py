"""Quantization of the blocks' kernels, for sampling.

A kernel (L, inputs, outputs) becomes integers q of b bits and scales s. Every
combination of layer, output and group of inputs has its own scale:

  s = max |w| / (2^(b-1) - 1/2), rounded up to bfloat16
  q = round(w / s), from -2^(b-1) to 2^(b-1) - 1
  w' = s q, within s / 2 of w; zero stays zero

The outermost interval thus has width s, as in qwix's symmetric quantization.
With 8 bits, all inputs form one group. With fewer bits, the group size is the
largest divisor of `inputs` up to 64. The schemes have these numbers of bits:

  scheme   attention, MLP   modulation of the blocks
  int8     8                8
  int6     6                8
  int4     4                6

The modulation (adaLN) is a third of the blocks' kernels, 6 D^2 of 18 D^2. In
bfloat16, the modulation would take 6 * 2 / (18 * 4) = 0.167 of the blocks'
float32 size. Relative to float32, SiT-B/2 would then take 0.34 instead of 0.26
in int8, 0.30 instead of 0.22 in int6, and 0.26 instead of 0.17 in int4. The
modulation is therefore also quantized, with more bits in int6 and int4. Other
parameters are small and sensitive: embeddings, heads, norms and biases are
bfloat16, and position tables are float32.

A file stores a kernel `NAME` as `NAME.packed`, (L, bytes) uint8, and
`NAME.scale`, (L, groups, outputs) bfloat16. A layer's values q + 2^(b-1) fill
its bytes row by row from the lowest bit. Three bytes contain four 6-bit values,
and one byte contains two 4-bit values. Unused bits are zero.

qwix's `quantize` cannot pack 6 bits. In addition, qwix rounds weights with the
float32 scale, then narrows the scale, so 8-bit errors reach 0.99 of a step.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dit.weights.finite import check_finite

Arrays = dict[str, np.ndarray]
Leaves = Mapping[str, jax.ShapeDtypeStruct]


class Scheme(NamedTuple):
  """Number of bits of attention and MLP kernels, and of modulation kernels."""

  bits: int
  modulation_bits: int


SCHEMES = {'int8': Scheme(8, 8), 'int6': Scheme(6, 8), 'int4': Scheme(4, 6)}
LARGEST_GROUP = 64
_KERNELS = re.compile(r'blocks/(attention/(qkv|proj)|mlp/(fc1|fc2))/kernel')
_MODULATION = 'blocks/modulation/kernel'
_TABLES = ('position', 'rotary')
_PACKED, _SCALE = '.packed', '.scale'


def bits_of(name: str, scheme: str) -> int | None:
  """Returns the number of bits of a parameter; None if it is not quantized."""
  if _KERNELS.fullmatch(name):
    return SCHEMES[scheme].bits
  return SCHEMES[scheme].modulation_bits if name == _MODULATION else None


def stored(leaves: Leaves, scheme: str) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shape and type of every array in a quantized file.

  `leaves` are the shapes of the network's parameters, by path.
  """
  arrays = {}
  for name, leaf in leaves.items():
    if (bits := bits_of(name, scheme)) is None:
      arrays[name] = jax.ShapeDtypeStruct(leaf.shape, _dtype(name))
      continue
    layers, inputs, outputs = leaf.shape
    length = _packed_size(inputs * outputs, bits)
    groups = inputs // _group(inputs, bits)
    arrays[name + _PACKED] = jax.ShapeDtypeStruct((layers, length), np.uint8)
    arrays[name + _SCALE] = jax.ShapeDtypeStruct(
      (layers, groups, outputs), jnp.bfloat16
    )
  return arrays


def scheme_of(arrays: Mapping[str, np.ndarray], leaves: Leaves) -> str | None:
  """Infers the scheme of a file's arrays from their names and shapes.

  `leaves` are the shapes of the network's parameters, by path. Returns None if
  no array is packed, and 'packed' if packed arrays match no scheme.
  """
  shapes = {k: a.shape for k, a in arrays.items() if k.endswith(_PACKED)}
  for scheme in SCHEMES:
    expected = stored(leaves, scheme)
    if shapes and all(
      name in expected and expected[name].shape == shape
      for name, shape in shapes.items()
    ):
      return scheme
  return 'packed' if shapes else None


def quantize(params: Mapping[str, np.ndarray], scheme: str) -> Arrays:
  """Converts arrays by path to the arrays of a quantized file; see `stored`.

  Raises:
    InputError: if parameters are not finite.
  """
  arrays = {}
  for name, param in params.items():
    param = np.asarray(param, np.float32)
    check_finite(
      'the weights to quantize',
      {name: param},
      advice='take weights from before training diverged',
    )
    if (bits := bits_of(name, scheme)) is None:
      with np.errstate(over='ignore'):
        arrays[name] = param.astype(_dtype(name))
      check_finite(
        'the quantized weights',
        {name: arrays[name]},
        advice='they are too large for it: keep these weights unquantized',
      )
      continue
    layers = [_quantize_layer(kernel, bits) for kernel in param]
    codes, scale = zip(*layers, strict=True)
    arrays[name + _PACKED] = np.stack(codes)
    arrays[name + _SCALE] = np.stack(scale)
  return arrays


def dequantize(
  arrays: Mapping[str, np.ndarray], leaves: Leaves, scheme: str
) -> Arrays:
  """Returns the parameters in float32, by path.

  The caller must check that `arrays` match `stored(leaves, scheme)`.
  """
  params = {}
  for name, leaf in leaves.items():
    if (bits := bits_of(name, scheme)) is None:
      params[name] = arrays[name].astype(np.float32)
      continue
    _, inputs, outputs = leaf.shape
    params[name] = np.empty(leaf.shape, np.float32)
    for kernel, codes, scale in zip(
      params[name], arrays[name + _PACKED], arrays[name + _SCALE], strict=True
    ):
      groups = kernel.reshape(len(scale), -1, outputs)  # a view
      values = unpack(codes, bits, inputs * outputs).reshape(groups.shape)
      np.subtract(values, 2 ** (bits - 1), out=groups, dtype=np.float32)
      groups *= scale[:, None].astype(np.float32)
  return params


def pack(values: np.ndarray, bits: int) -> np.ndarray:
  """Packs (n,) uint8 values of 8, 6 or 4 bits into uint8 bytes."""
  spread = np.unpackbits(values[:, None], axis=1, count=bits, bitorder='little')
  codes = np.packbits(spread, bitorder='little')
  return np.pad(codes, (0, _packed_size(len(values), bits) - len(codes)))


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
  """Inverts `pack`; returns the first `count` values as uint8."""
  spread = np.unpackbits(packed, count=bits * count, bitorder='little')
  return np.packbits(spread.reshape(-1, bits), axis=1, bitorder='little')[:, 0]


def _packed_size(count: int, bits: int) -> int:
  """Returns the number of packed bytes, a multiple of 3 for 6-bit values."""
  period = math.lcm(bits, 8)
  return -(-count * bits // period) * period // 8


def _quantize_layer(
  kernel: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray]:
  """Maps a kernel (inputs, outputs) to bytes and scales (groups, outputs)."""
  inputs, outputs = kernel.shape
  groups = kernel.reshape(-1, _group(inputs, bits), outputs)
  limit = 2 ** (bits - 1)
  scale = _round_up(np.abs(groups).max(1) / np.float32(limit - 0.5))
  step = scale[:, None].astype(np.float32)
  values = np.rint(groups / np.where(step, step, 1)).clip(-limit, limit - 1)
  return pack((values + limit).astype(np.uint8).reshape(-1), bits), scale


def _group(inputs: int, bits: int) -> int:
  """Returns the number of inputs that share a scale."""
  if bits == 8:
    return inputs
  sizes = range(1, min(inputs, LARGEST_GROUP) + 1)
  return max(size for size in sizes if inputs % size == 0)


def _dtype(name: str) -> np.dtype:
  return np.dtype(np.float32 if name in _TABLES else jnp.bfloat16)


def _round_up(x: np.ndarray) -> np.ndarray:
  """Rounds nonnegative float32 up to bfloat16, the upper 16 of the 32 bits."""
  bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
  return (bits + 0xFFFF >> 16).astype(np.uint16).view(jnp.bfloat16)
