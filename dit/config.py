"""The transformer's configuration and its named sizes and families."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax

from core.errors import InputError, nearest, quote
from core.ranges import Choice, Range
from dit.base import NetworkConfig, Width

# name: (depth, width, num_heads). All sizes except 'Tiny' are from DiT (Peebles
# & Xie 2023, table 1).
SIZES = {
  'Tiny': (6, 96, 4),
  'S': (12, 384, 6),
  'B': (12, 768, 12),
  'L': (24, 1024, 16),
  'XL': (28, 1152, 16),
}
# Settings that differ between the families.
FAMILIES = {
  # SiT as trained by Internal Guidance. willisma/SiT also learns sigma, and
  # reverses time.
  'SiT': {
    'norm': 'layernorm',
    'mlp': 'gelu',
    'rope': False,
    'learned_variance': False,
    'convention': 'velocity',
  },
  'DiT': {
    'norm': 'layernorm',
    'mlp': 'gelu',
    'rope': False,
    'learned_variance': True,
    'convention': 'noise',
  },
  'LightningDiT': {
    'norm': 'rmsnorm',
    'mlp': 'swiglu',
    'rope': True,
    'learned_variance': False,
    'convention': 'reversed',
  },
}
ATTENTIONS = ('xla', 'cudnn')
REMATS = ('none', 'dots', 'full')
TAP_HEADS = ('linear', 'block')
NORMS = ('layernorm', 'rmsnorm')
QK_NORMS = ('none', *NORMS)
MLPS = ('gelu', 'swiglu')
CONVENTIONS = ('velocity', 'reversed', 'noise', 'data')
# Limit on values in the position table: 1 GiB on every host and device.
MOST_POSITIONS = 2**28


def named_size(name: str) -> dict[str, Any]:
  """Returns the fields of DiTConfig that a name like 'SiT-XL/2' sets."""
  match = re.fullmatch(r'([A-Za-z]+)-([A-Za-z]+)/([0-9]{1,4})', name)
  if (
    not match
    or match[1] not in FAMILIES
    or match[2] not in SIZES
    or int(match[3]) < 1
  ):
    raise unknown_name(name)
  depth, width, num_heads = SIZES[match[2]]
  return {
    'depth': depth,
    'width': width,
    'num_heads': num_heads,
    'patch': int(match[3]),
    **FAMILIES[match[1]],
  }


def unknown_name(name: str, others: Sequence[str] = ()) -> InputError:
  """Returns the error for an unknown model name; `others` lists valid names."""
  names = [f'{family}-{size}/2' for family in FAMILIES for size in SIZES]
  return InputError(
    f'model.name is {quote(name)}, expected family-size/patch such as '
    f'SiT-XL/2; families are {", ".join(FAMILIES)}, '
    f'sizes {", ".join(SIZES)}, patches 1, 2, 4, 8'
    + ''.join(f', or {alternative}' for alternative in others)
    + f'.{nearest(name, [*names, *others])}'
  )


def name_of(config: 'DiTConfig') -> str:
  """Returns a model name for `config`; other keys must be set explicitly."""
  sizes = (config.depth, config.width, config.num_heads)
  size = next((name for name in SIZES if SIZES[name] == sizes), 'XL')
  family = next(
    (
      name
      for name in FAMILIES
      if FAMILIES[name]['convention'] == config.convention
    ),
    'SiT',
  )
  return f'{family}-{size}/{config.patch}'


@dataclasses.dataclass(frozen=True)
class DiTConfig(NetworkConfig):
  """Settings of the transformer's shape and arithmetic.

  `patch` is the side of a patch, so a latent has N = (size / patch)^2 tokens.
  configs/base.py explains the other fields. Only `dtype` can be 'auto'.
  """

  patch: Annotated[int, Range(1, 1024)]
  width: Width
  num_heads: Annotated[int, Range(1, 65_536)]
  mlp_ratio: Annotated[float, Range(1e-3, 1000)] = 4.0
  norm: Annotated[str, Choice(NORMS)] = 'layernorm'
  mlp: Annotated[str, Choice(MLPS)] = 'gelu'
  rope: bool = False
  qk_norm: Annotated[str, Choice(QK_NORMS)] = 'none'
  shift: bool = True
  learned_variance: bool = False
  convention: Annotated[str, Choice(CONVENTIONS)] = 'velocity'
  min_time: Annotated[float, Range(1e-4, 1)] = 0.05
  tap_head: Annotated[str, Choice(TAP_HEADS)] = 'linear'
  attention: Annotated[str, Choice(ATTENTIONS)] = 'xla'
  remat: Annotated[str, Choice(REMATS)] = 'dots'
  scan: bool = True

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.hidden < 1:
      raise InputError(
        f'model.mlp_ratio is {self.mlp_ratio}, which gives the MLP no channels '
        f'at width {self.width}; raise it.'
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
    if self.num_tokens * self.width > MOST_POSITIONS:
      raise InputError(
        f'model.size {self.size} and patch {self.patch} are '
        f'{self.num_tokens:,} tokens, whose position table of width '
        f'{self.width} is too large; raise the patch.'
      )
    if self.rope and self.head_width % 4:
      raise InputError(
        f'model.width / model.num_heads is {self.head_width}, which rotary '
        'positions need to be divisible by 4; change one of them.'
      )
    if self.attention == 'cudnn' and (
      self.head_width % 8 or self.head_width > 128
    ):
      raise InputError(
        f'model.attention cudnn needs heads of 8, 16, ... or 128 channels, but '
        f'model.width / model.num_heads is {self.head_width}; choose xla.'
      )

  @property
  def num_tokens(self) -> int:
    """Number of tokens N."""
    return (self.size // self.patch) ** 2

  @property
  def head_width(self) -> int:
    """Width of one attention head."""
    return self.width // self.num_heads

  @property
  def hidden(self) -> int:
    """Width inside the MLP; a third less for SwiGLU, which has 3 matrices."""
    hidden = round(self.width * self.mlp_ratio)
    return 2 * hidden // 3 if self.mlp == 'swiglu' else hidden

  @property
  def multiply_adds(self) -> int:
    """Multiply-adds of the blocks for one image."""
    matrices = 4 * self.width + (3 if self.mlp == 'swiglu' else 2) * self.hidden
    # The term 2 * num_tokens counts attention's two matmuls.
    per_token = self.width * (matrices + 2 * self.num_tokens)
    modulation = (6 if self.shift else 4) * self.width**2
    blocks = self.depth + len(self.taps) * (self.tap_head == 'block')
    return blocks * (self.num_tokens * per_token + modulation)

  @property
  def pass_multiply_adds(self) -> int:
    """Multiply-adds of one image: blocks, embedders and all heads."""
    patch = self.patch**2
    ends = self.num_tokens * patch * self.channels + 256 + self.width
    head = self.num_tokens * patch * self.out_channels + 2 * self.width
    heads = (1 + len(self.taps)) * head
    return self.multiply_adds + self.width * (ends + heads)

  @property
  def out_channels(self) -> int:
    """Channels that a head predicts."""
    return (1 + self.learned_variance) * self.channels

  @property
  def fixed_values(self) -> int:
    """Number of values in the position table."""
    return self.num_tokens * self.width

  @property
  def attention_here(self) -> Literal['xla', 'cudnn']:
    """`attention` if the backend and `dtype` support it, else 'xla'."""
    is_cudnn = self.attention == 'cudnn' and self.activation_dtype == 'bfloat16'
    return 'cudnn' if is_cudnn and jax.default_backend() == 'gpu' else 'xla'
