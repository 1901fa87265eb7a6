"""Guidance methods whose weak prediction comes from a weaker network.

IG             weak = the network's intermediate output  (arXiv 2512.24176)
S2             weak = network that skips random blocks; the paper's omega
               is scale - 1                              (arXiv 2508.12880)
SLG            weak = network that skips fixed blocks    (SD3.5)
AutoGuidance   weak = smaller or less trained network    (arXiv 2406.02507)
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, check_range
from dit.types import Condition, Denoiser, DenoiserOutput
from guidance.base import BlocksTerm, GuideTerm, Step
from guidance.scale import Scale, static


def extrapolate(
  strong: jax.Array, weak: jax.Array, scale: float | jax.Array
) -> jax.Array:
  """Moves `strong` away from `weak`; scale 1 returns `strong` exactly."""
  return strong + (scale - 1) * (strong - weak)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Internal:
  """Internal Guidance, which extrapolates from an intermediate prediction.

  RAEv2 (arXiv 2605.18324) sets another scale and interval for the rows of the
  null condition. These rows exist only beside a method such as CFG.

  Attributes:
    scale: w in the paper.
    tap: Index of the weak tap, counted from 0 in order of depth.
    null: Scale of the null rows; None for `scale`. The schedule is the same.
    null_low: Lowest time at which `null` applies; None for `scale.low`.
    null_high: Highest time at which `null` applies; None for `scale.high`.
  """

  name: ClassVar[str] = 'ig'
  title: ClassVar[str] = 'Internal Guidance'
  weak_title: ClassVar[str] = 'the prediction of an earlier block'
  scale: Scale
  tap: int = static(0)
  null: float | jax.Array | None = None
  null_low: float | None = static(None)
  null_high: float | None = static(None)

  def __post_init__(self) -> None:
    check_range('guidance ig tap', self.tap, 0, 1000)
    if self.null is None and (self.null_low, self.null_high) != (None, None):
      raise InputError(
        'guidance ig sets null_low or null_high, but not null, the scale of '
        'the null rows; add null=SCALE.'
      )
    self.scale_of(null=True)

  def scale_of(self, *, null: bool) -> Scale:
    """Returns the scale of the null rows or of all other rows."""
    if not null or self.null is None:
      return self.scale
    low = self.scale.low if self.null_low is None else self.null_low
    high = self.scale.high if self.null_high is None else self.null_high
    return dataclasses.replace(self.scale, value=self.null, low=low, high=high)

  def refine(
    self,
    strong: jax.Array,
    out: DenoiserOutput,
    step: Step,
    *,
    null: bool = False,
  ) -> jax.Array:
    """Returns the guided velocity of rows; `null` if they are null rows."""
    weak = out.intermediate[self.tap].astype(strong.dtype)
    scale = self.scale_of(null=null)
    return extrapolate(strong, weak, scale.at(step.at))

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if the network lacks the tap."""
    if not 0 <= self.tap < denoiser.num_taps:
      raise InputError(
        f'guidance ig needs tap {self.tap} (counted from 0), but the network '
        f'has {denoiser.num_taps}; train with model.taps, or choose another '
        'tap.'
      )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StochasticSelf(BlocksTerm):
  """S2-Guidance, which samples a sub-network at every solver step.

  The whole batch and all stages of a step share the sub-network. Block 0 is
  always kept, as in the paper. The paper skips "about 10 %" of the blocks,
  "3/24", and adds S2 with omega 0.25 to CFG. In the paper's ablation on 24
  blocks, skipping 1 or 2 blocks scores best, and skipping 3 scores no better
  than skipping none. The default is *ours*: 1 block if the network has at most
  12 blocks, else 2 blocks.

  Attributes:
    scale: 1 + omega, with omega from the paper.
    skip: Number of skipped blocks; 0 selects the default number.
    masks: Number of independent sub-networks. The mean of their predictions is
      the weak prediction. Several sub-networks are the paper's naive form.
    exclude: Blocks that are always kept, in addition to block 0.
  """

  name: ClassVar[str] = 's2'
  title: ClassVar[str] = 'S2-Guidance'
  weak_title: ClassVar[str] = 'the network with random blocks skipped'
  scale: Scale
  skip: int = static(0)
  masks: int = static(1)
  exclude: tuple[int, ...] = static(())

  def __post_init__(self) -> None:
    check_range('guidance s2 skip', self.skip, 0, 1000)
    check_range('guidance s2 masks', self.masks, 1, 1000)

  def draw(
    self, denoiser: Denoiser, condition: Condition, key: jax.Array,
    image_keys: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """Returns random masks of kept blocks, (masks, L) bool."""
    del condition, image_keys
    depth, indices = denoiser.depth, self._eligible(denoiser.depth)

    def draw_mask(key):
      blocks = jax.random.choice(
        key, indices, (self._skip(depth),), replace=False
      )
      return jnp.ones(depth, bool).at[blocks].set(False)

    keys = key[None] if self.masks == 1 else jax.random.split(key, self.masks)
    return jax.vmap(draw_mask)(keys)

  @property
  def stepwise(self) -> bool:
    """True, since blocks are sampled at every step."""
    return True

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if too few blocks can be skipped."""
    depth, skip = denoiser.depth, self._skip(denoiser.depth)
    _check_blocks('s2', self.exclude, depth)
    # At least one of the blocks that may be skipped must run.
    minimum = depth - len(self._eligible(depth)) + skip + 1
    if depth < minimum:
      raise InputError(
        f'guidance s2 with skip={skip} needs more than {minimum - 1} '
        f'blocks (block 0{" and excluded ones" if self.exclude else ""} always '
        f'run); the network has {depth}.'
      )

  def _skip(self, depth: int) -> int:
    return self.skip or (1 if depth <= 12 else 2)

  def _eligible(self, depth: int) -> np.ndarray:
    return np.setdiff1d(np.arange(1, depth), self.exclude)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SkipLayer(BlocksTerm):
  """Skip-layer guidance, which skips fixed blocks at every step.

  Published intervals are fractions f of the solver steps. A grid with shift s
  maps f to t = s (1 - f) / (1 + (s - 1) (1 - f)). Stability's code for SD3.5
  Medium (shift 3) uses scale 2.5, blocks 7, 8 and 9, and f from 0.01 to 0.30:
  slg:3.5:blocks=7+8+9@0.875-0.997. The settings of diffusers, scale 2.8 and f
  from 0.01 to 0.20, are slg:3.8:blocks=7+8+9@0.923-0.997.

  Attributes:
    scale: Published scale plus 1.
    blocks: Skipped blocks, counted from 0.
  """

  name: ClassVar[str] = 'slg'
  title: ClassVar[str] = 'Skip-layer guidance'
  weak_title: ClassVar[str] = 'the network with fixed blocks skipped'
  scale: Scale
  blocks: tuple[int, ...] = static(())

  def draw(
    self, denoiser: Denoiser, condition: Condition, key: jax.Array,
    image_keys: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """Returns the mask of kept blocks, (1, L) bool."""
    del condition, key, image_keys
    mask = np.ones((1, denoiser.depth), bool)
    mask[0, list(self.blocks)] = False
    return jnp.asarray(mask)

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if `blocks` is empty, or a block does not exist."""
    if not self.blocks:
      raise InputError(
        'guidance slg lists no blocks; name them, as in slg:2:blocks=7+8.'
      )
    _check_blocks('slg', self.blocks, denoiser.depth)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AutoGuidance(GuideTerm):
  """AutoGuidance, which moves the velocity away from a weaker network.

  Attributes:
    guide: Weaker network of any size, with the same labels, latents and path as
      the guided network.
  """

  name: ClassVar[str] = 'auto'
  title: ClassVar[str] = 'AutoGuidance'
  scale: Scale
  guide: Denoiser | None = None


def _check_blocks(name: str, blocks: tuple[int, ...], depth: int) -> None:
  for block in blocks:
    if not 0 <= block < depth:
      raise InputError(
        f'guidance {name} names block {block}; the network has blocks 0 to '
        f'{depth - 1}.'
      )
