"""The Inception-v3 of FID: the TensorFlow graph of 2015-12-05.

  pool     = mean over positions of the last block        (n, 2048)
  spatial  = 7 channels of Mixed_6d's first branch        (n, 17 * 17 * 7)
  logits   = pool W^T, without the bias                   (n, 1008)

FID, precision and recall use `pool`, sFID uses `spatial`, and the Inception
Score uses softmax(logits), as in the ADM evaluator (guided-diffusion,
evaluations/evaluator.py). This graph differs from other Inceptions: Average
pooling excludes the padding. The last block uses max pooling. There are 1008
logits, from which the bias is omitted for the Inception Score.

Names in the code are from the published PyTorch file. The batch normalizations
in that file are folded into kernels and biases:

  kernel = weight s,  bias = beta - mean s,  s = gamma / sqrt(var + 1e-3)
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from core.errors import InputError
from dit.weights.finite import check_finite

SIZE = 299
LOGITS = 1008
_SPATIAL = 7
_EPSILON = 1e-3
# At lower precisions, TPUs and GPUs round the float32 inputs of matmuls.
_EXACT = lax.Precision.HIGHEST


class Features(NamedTuple):
  """Outputs of the network for n images, float32.

  Attributes:
    pool: Features (n, F) for distances.
    spatial: Features (n, S) for sFID; None if the extractor has none.
    logits: Class logits (n, K); None if the extractor has none.
  """

  pool: Any
  spatial: Any = None
  logits: Any = None


# Parallel branches of a block. Each branch is a sequence of poolings ('mean',
# 'max') and convolutions (outputs, kernel height, kernel width, stride if it is
# not 1). A list contains two convolutions with the same input.
def _a(pool: int) -> dict[str, list]:
  return {
    'branch1x1': [(64, 1, 1)],
    'branch5x5': [(48, 1, 1), (64, 5, 5)],
    'branch3x3dbl': [(64, 1, 1), (96, 3, 3), (96, 3, 3)],
    'branch_pool': ['mean', (pool, 1, 1)],
  }


def _c(width: int) -> dict[str, list]:
  row, column = (width, 1, 7), (width, 7, 1)
  return {
    'branch1x1': [(192, 1, 1)],
    'branch7x7': [(width, 1, 1), row, (192, 7, 1)],
    'branch7x7dbl': [(width, 1, 1), column, row, column, (192, 1, 7)],
    'branch_pool': ['mean', (192, 1, 1)],
  }


def _e(pool: str) -> dict[str, list]:
  fork = [(384, 1, 3), (384, 3, 1)]
  return {
    'branch1x1': [(320, 1, 1)],
    'branch3x3': [(384, 1, 1), fork],
    'branch3x3dbl': [(448, 1, 1), (384, 3, 3), fork],
    'branch_pool': [pool, (192, 1, 1)],
  }


# For each layer: outputs, kernel size, stride, whether the borders are padded.
_STEM = {
  'Conv2d_1a_3x3': (32, 3, 2, False),
  'Conv2d_2a_3x3': (32, 3, 1, False),
  'Conv2d_2b_3x3': (64, 3, 1, True),
  'MaxPool_1': None,
  'Conv2d_3b_1x1': (80, 1, 1, False),
  'Conv2d_4a_3x3': (192, 3, 1, False),
  'MaxPool_2': None,
}
_MIXED: dict[str, dict[str, list]] = {
  'Mixed_5b': _a(32),
  'Mixed_5c': _a(64),
  'Mixed_5d': _a(64),
  'Mixed_6a': {
    'branch3x3': [(384, 3, 3, 2)],
    'branch3x3dbl': [(64, 1, 1), (96, 3, 3), (96, 3, 3, 2)],
    'branch_pool': ['max/2'],
  },
  'Mixed_6b': _c(128),
  'Mixed_6c': _c(160),
  'Mixed_6d': _c(160),
  'Mixed_6e': _c(192),
  'Mixed_7a': {
    'branch3x3': [(192, 1, 1), (320, 3, 3, 2)],
    'branch7x7x3': [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)],
    'branch_pool': ['max/2'],
  },
  'Mixed_7b': _e('mean'),
  'Mixed_7c': _e('max'),
}


class Conv(nnx.Module):
  """A convolution with bias and ReLU; `same` pads the borders."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    size: tuple[int, int],
    stride: int = 1,
    same: bool = True,
  ) -> None:
    self.kernel = nnx.Param(jnp.zeros((*size, inputs, outputs)))
    self.bias = nnx.Param(jnp.zeros(outputs))
    self.stride, self.same = stride, same

  def __call__(
    self, x: jax.Array, pool: Callable[[jax.Array], jax.Array] = lambda y: y
  ) -> jax.Array:
    """Maps (B, H, W, inputs) to (B, H', W', outputs)."""
    y = pool(_convolve(x, self.kernel[...], self.stride, self.same))
    return jax.nn.relu(y + self.bias[...])


class Mixed(nnx.Module):
  """Parallel branches with concatenated channels."""

  def __init__(self, inputs: int, branches: Mapping[str, list]) -> None:
    plan = []
    for name, steps in branches.items():
      convolutions = sum(not isinstance(step, str) for step in steps)
      channels, number = inputs, 0
      chain: list[tuple[str, ...]] = []
      for step in steps:
        if isinstance(step, str):
          chain.append((step,))
          continue
        number += 1
        fork = step if isinstance(step, list) else [step]
        label = f'{name}_{number}' if convolutions > 1 else name
        names = [
          label + letter for letter in (('a', 'b') if len(fork) > 1 else ('',))
        ]
        for key, (outputs, rows, columns, *stride) in zip(
          names, fork, strict=True
        ):
          conv = Conv(
            channels,
            outputs,
            (rows, columns),
            stride[0] if stride else 1,
            not stride,
          )
          setattr(self, key, conv)
        channels = sum(outputs for outputs, *_ in fork)
        chain.append(tuple(names))
      plan.append((tuple(chain), channels))
    self.plan = tuple(chain for chain, _ in plan)
    self.outputs = sum(channels for _, channels in plan)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H', W', outputs)."""
    return jnp.concatenate([self._branch(chain, x) for chain in self.plan], -1)

  def _branch(self, chain: tuple, x: jax.Array) -> jax.Array:
    if chain[0] == ('mean',):
      # The published graph pools before the 1 x 1 convolution. Both operations
      # are linear, and pooling the output is cheaper: it has fewer channels.
      return getattr(self, chain[1][0])(x, _pool_mean)
    for names in chain:
      if names[0] in _POOLS:
        x = _POOLS[names[0]](x)
      else:
        x = jnp.concatenate([getattr(self, name)(x) for name in names], -1)
    return x


class Inception(nnx.Module):
  """The Inception network; all weights are zeros until loaded."""

  def __init__(self) -> None:
    channels = 3
    for name, part in _STEM.items():
      if part is not None:
        outputs, size, stride, same = part
        setattr(self, name, Conv(channels, outputs, (size, size), stride, same))
        channels = outputs
    for name, branches in _MIXED.items():
      block = Mixed(channels, branches)
      setattr(self, name, block)
      channels = block.outputs
    self.fc = nnx.Param(jnp.zeros((channels, LOGITS)))

  def blocks(self, x: jax.Array) -> Iterator[tuple[str, jax.Array]]:
    """Yields the name and the output (B, H', W', C') of each block."""
    for name in (*_STEM, *_MIXED):
      x = _pool_max(x, 2) if name.startswith('Max') else getattr(self, name)(x)
      yield name, x

  def __call__(self, x: jax.Array) -> Features:
    """Maps images (B, 299, 299, 3) in [-1, 1] to features."""
    for name, x in self.blocks(x):  # noqa: B020 - later code uses the last x
      if name == 'Mixed_6d':
        spatial = x[..., :_SPATIAL].reshape(len(x), -1)
    pool = x.mean((1, 2))
    return Features(
      pool, spatial, jnp.dot(pool, self.fc[...], precision=_EXACT)
    )


def _convolve(
  x: jax.Array, kernel: jax.Array, stride: int, same: bool
) -> jax.Array:
  height, width, inputs, outputs = kernel.shape
  if height == width == 1:
    return jnp.einsum('bhwi,io->bhwo', x, kernel[0, 0], precision=_EXACT)
  up, left = (height // 2 * same, width // 2 * same)
  # On CPUs, XLA gathers a patch of the input for every output. A kernel that is
  # one stride wider computes two neighboring columns as two groups of channels,
  # so both columns share a patch. This halves the time of layers where patches
  # take most of it; features are equal. For 16 images, the network takes 18.4 s
  # instead of 22.8 s (medians of 7 alternating runs while two cores were busy
  # with other work).
  columns = 2 if jax.default_backend() == 'cpu' and x.shape[2] > 70 else 1
  count = (x.shape[2] + 2 * left - width) // stride + 1
  excess = -count % columns
  shifts = [(i * stride, (columns - 1 - i) * stride) for i in range(columns)]
  kernel = jnp.stack(
    [jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts], 3
  )
  y = lax.conv_general_dilated(
    x,
    kernel.reshape(height, -1, inputs, columns * outputs),
    (stride, stride * columns),
    ((up, up), (left, left + excess * stride)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=_EXACT,
  )
  return y.reshape(*y.shape[:2], -1, outputs)[:, :, :count]


def _pool(
  x: jax.Array,
  start: float,
  combine: Callable[[Any, Any], Any],
  stride: int,
  pad: int,
) -> jax.Array:
  pads = ((0, 0), (pad, pad), (pad, pad), (0, 0))
  return lax.reduce_window(
    x, start, combine, (1, 3, 3, 1), (1, stride, stride, 1), pads
  )


def _pool_max(x: jax.Array, stride: int) -> jax.Array:
  return _pool(x, -jnp.inf, lax.max, stride, int(stride == 1))


def _pool_mean(x: jax.Array) -> jax.Array:
  """Averages 3 x 3 windows, excluding the padding (count_include_pad=False)."""
  ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
  return _pool(x, 0.0, lax.add, 1, 1) / _pool(ones, 0.0, lax.add, 1, 1)


_POOLS = {
  'max': lambda x: _pool_max(x, 1),
  'max/2': lambda x: _pool_max(x, 2),
}


def from_published(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns the parameters of `Inception` from the published tensors.

  Raises InputError if the tensors belong to another network.
  """
  graph, state = nnx.split(nnx.eval_shape(Inception))
  del graph
  shapes = nnx.to_pure_dict(state)
  names = {'fc.bias'}

  def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = tensors.get(name)
    if array is None or array.shape != shape:
      raise InputError(
        'these are not the weights of the FID Inception: '
        f'{name} {"is missing" if array is None else f"has {array.shape}"}, '
        f'expected {shape}.'
      )
    names.add(name)
    return np.asarray(array, np.float64)

  def load(name: str, tree: Mapping) -> dict[str, Any]:
    if 'kernel' not in tree:
      return {
        key: load(f'{name}.{key}'.lstrip('.'), value)
        for key, value in tree.items()
      }
    height, width, inputs, outputs = tree['kernel'].shape
    weight = tensor(f'{name}.conv.weight', (outputs, inputs, height, width))
    gamma, beta, mean, variance = (
      tensor(f'{name}.bn.{key}', (outputs,))
      for key in ('weight', 'bias', 'running_mean', 'running_var')
    )
    with np.errstate(invalid='ignore', over='ignore'):  # see `check_finite`
      scale = gamma / np.sqrt(variance + _EPSILON)
      return {
        'kernel': np.float32(weight.transpose(2, 3, 1, 0) * scale),
        'bias': np.float32(beta - mean * scale),
      }

  head = shapes.pop('fc')
  params = load('', shapes)
  params['fc'] = np.float32(tensor('fc.weight', head.shape[::-1]).T)
  unknown_names = {
    name
    for name in tensors.keys() - names
    if not name.endswith('num_batches_tracked')
  }
  if unknown_names:
    raise InputError(
      'these are not the weights of the FID Inception: '
      f'{sorted(unknown_names)[0]} is unknown.'
    )
  check_finite(
    'the FID Inception, its norms folded in,',
    params,
    advice='download the published file again',
  )
  return params


def apply(params: Any, x: jax.Array) -> Features:
  """Applies `Inception` with `params` to images (B, 299, 299, 3) in [-1, 1]."""
  graph = nnx.split(nnx.eval_shape(Inception))[0]
  return nnx.merge(graph, params)(x)
