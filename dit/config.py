"""The network's configuration and the field's named sizes."""

import dataclasses
import difflib
import re
from collections.abc import Iterable

import jax

from dit.types import InputError

# name: (depth, width, num_heads), as in DiT (Peebles & Xie 2023, table 1).
SIZES = {
  'Tiny': (6, 96, 4),
  'S': (12, 384, 6),
  'B': (12, 768, 12),
  'L': (24, 1024, 16),
  'XL': (28, 1152, 16),
}
FAMILIES = ('SiT',)
DTYPES = ('auto', 'float32', 'bfloat16')
REMATS = ('none', 'dots', 'full')
QK_NORMS = ('none', 'layernorm')


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns ' Did you mean ...?' for a near match of `name`, or ''."""
  spelling = {word.lower(): word for word in known}
  match = difflib.get_close_matches(name.lower(), spelling, n=1, cutoff=0.5)
  return f' Did you mean {spelling[match[0]]!r}?' if match else ''


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
  """Raises InputError unless `value` is one of `choices`."""
  choices = list(choices)
  if value not in choices:
    raise InputError(
      f'{key} is {value!r}, expected one of {", ".join(choices)}.'
      + nearest(str(value), choices)
    )


def named_size(name: str) -> dict[str, int]:
  """Returns depth, width, num_heads and patch of a name like 'SiT-XL/2'."""
  match = re.fullmatch(r'([A-Za-z]+)-([A-Za-z]+)/(\d+)', name)
  if (
    not match
    or match[1] not in FAMILIES
    or match[2] not in SIZES
    or int(match[3]) < 1
  ):
    known = [f'{family}-{size}/2' for family in FAMILIES for size in SIZES]
    raise InputError(
      f'model.name is {name!r}, expected family-size/patch such as '
      f'{", ".join(known)}.{nearest(name, known)}'
    )
  depth, width, num_heads = SIZES[match[2]]
  return {
    'depth': depth,
    'width': width,
    'num_heads': num_heads,
    'patch': int(match[3]),
  }


@dataclasses.dataclass(frozen=True)
class DiTConfig:
  """Everything that fixes the network's shape and arithmetic.

  Attributes:
    size: height and width of the latent.
    channels: channels C of the latent.
    num_classes: classes; the null label is `num_classes`.
    patch: side of a patch; N = (size / patch)^2 tokens.
    depth: blocks L.
    width: model dimension D.
    num_heads: attention heads; must divide `width`.
    mlp_ratio: hidden width of the MLP over D.
    taps: numbers of blocks, counted from 1, after which an intermediate
      prediction is read; shallow to deep.
    qk_norm: normalisation of queries and keys, one of QK_NORMS.
    dtype: of activations; 'auto' is bfloat16 on accelerators, else float32.
    param_dtype: of parameters.
    remat: what the backward pass recomputes: 'none', 'dots' (all but matrix
      products) or 'full' (each block).
    scan: False runs the blocks in a Python loop, for debugging.
  """

  size: int
  channels: int
  num_classes: int
  patch: int
  depth: int
  width: int
  num_heads: int
  mlp_ratio: float = 4.0
  taps: tuple[int, ...] = ()
  qk_norm: str = 'none'
  dtype: str = 'auto'
  param_dtype: str = 'float32'
  remat: str = 'none'
  scan: bool = True

  def __post_init__(self) -> None:
    """Checks that the parts fit together."""
    for field in ('size', 'channels', 'num_classes', 'patch', 'depth', 'width',
                  'num_heads'):  # fmt: skip
      if getattr(self, field) < 1:
        raise InputError(
          f'model.{field} is {getattr(self, field)}, expected at least 1.'
        )
    if not 1 <= self.width * self.mlp_ratio < float('inf'):
      raise InputError(
        f'model.mlp_ratio is {self.mlp_ratio}, expected a positive number.'
      )
    if self.size % self.patch:
      raise InputError(
        f'model.patch {self.patch} does not divide the latent size '
        f'{self.size}; choose a patch that does.'
      )
    if self.width % self.num_heads:
      raise InputError(
        f'model.width {self.width} is not divisible by model.num_heads '
        f'{self.num_heads}; change one of them.'
      )
    if self.width % 4:
      raise InputError(
        f'model.width {self.width} is not divisible by 4, as the sin-cos '
        'position table needs; change it.'
      )
    if list(self.taps) != sorted(set(self.taps)):
      raise InputError(
        f'model.taps {self.taps} must be distinct and in rising order.'
      )
    for tap in self.taps:
      if not 1 <= tap < self.depth:
        raise InputError(
          f'model.taps has {tap}, but a tap counts the blocks before its head '
          f'and must lie between 1 and depth - 1 = {self.depth - 1}.'
        )
    check_choice('model.qk_norm', self.qk_norm, QK_NORMS)
    check_choice('model.dtype', self.dtype, DTYPES)
    check_choice('model.param_dtype', self.param_dtype, DTYPES[1:])
    check_choice('model.remat', self.remat, REMATS)

  @property
  def num_tokens(self) -> int:
    """N, the number of tokens."""
    return (self.size // self.patch) ** 2

  @property
  def activation_dtype(self) -> str:
    """`dtype` with 'auto' resolved for the default backend."""
    if self.dtype != 'auto':
      return self.dtype
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return (self.size, self.size, self.channels)
