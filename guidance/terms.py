"""The methods: each names its weak prediction and its scale.

  CFG  weak = same network, null label            (arXiv 2207.12598)
  IG   weak = an intermediate head, same pass     (arXiv 2512.24176)
  S2   weak = same network, a few random blocks   (arXiv 2508.12880, eq. 4)
       skipped, same label; in the difference form, omega = scale - 1

All extrapolate from weak to strong, scale 1 meaning off:

  extrapolate(strong, weak, scale) = strong + (scale - 1) (strong - weak)

(transformed by the method, where it says so).

A scale holds on a closed interval of t (0 data, 1 noise) and is 1 outside.
"""

import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from dit.types import DenoiserOutput, InputError


def _static(default):
  return dataclasses.field(default=default, metadata={'static': True})


def extrapolate(
  strong: jax.Array, weak: jax.Array, scale: float | jax.Array
) -> jax.Array:
  """Moves away from `weak`; scale 1 returns `strong` bit for bit."""
  return strong + (scale - 1) * (strong - weak)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scale:
  """A guidance scale, on an interval.

  Attributes:
    value: the scale; a leaf, so that a sweep over it compiles once.
    low: the lowest time at which it holds.
    high: the highest.
  """

  value: float | jax.Array
  low: float = _static(0.0)
  high: float = _static(1.0)

  def __post_init__(self) -> None:
    """Checks the interval."""
    if not 0 <= self.low < self.high <= 1:
      raise InputError(
        f'guidance interval {self.low:g}-{self.high:g}: expected '
        '0 <= low < high <= 1, with t = 0 at the data and 1 at the noise.'
      )

  def at(self, t: jax.Array) -> jax.Array:
    """The scale at time t, 1 outside the interval."""
    inside = (self.low <= t) & (t <= self.high)
    return jnp.where(inside, self.value, 1.0)


class Term(Protocol):
  """A method whose weak prediction costs something.

  Exactly one of `weak_label` and `keep` returns an array.
  """

  name: ClassVar[str]
  scale: Scale

  def weak_label(
    self, label: jax.Array, num_classes: int, key: jax.Array
  ) -> jax.Array | None:
    """(B,) labels of one more row per image; None: no such row."""

  def keep(self, depth: int, key: jax.Array) -> jax.Array | None:
    """(M, L) bool, sub-networks whose mean prediction is weak; or None."""

  def transform(self, difference: jax.Array) -> jax.Array:
    """Strong - weak, (B, H, W, C), as the scale multiplies it."""

  def check(self, depth: int) -> None:
    """Raises InputError where a network of `depth` blocks does not do."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Internal:
  """Internal Guidance: refines every row by its own intermediate head.

  Attributes:
    scale: w of the paper.
    tap: which of the network's taps is weak, from 0, shallow to deep.
  """

  name: ClassVar[str] = 'ig'
  scale: Scale
  tap: int = _static(0)

  def refine(self, out: DenoiserOutput, at: jax.Array) -> jax.Array:
    """The guided velocity of every row of a pass."""
    weak = out.intermediate[self.tap]
    return extrapolate(out.velocity, weak, self.scale.at(at))

  def check(self, num_taps: int) -> None:
    """Raises InputError where the network lacks the tap."""
    if not 0 <= self.tap < num_taps:
      raise InputError(
        f'guidance ig needs tap {self.tap} (counted from 0), but the network '
        f'has {num_taps}; train with model.taps, or choose another tap.'
      )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassifierFree:
  """Classifier-free guidance: away from the null label.

  Attributes:
    scale: 1 is off.
    guided_channels: guides only the first so many channels; 0: all. The
      published numbers of DiT, SiT and LightningDiT guide 3 (Internal
      Guidance's: all).
  """

  name: ClassVar[str] = 'cfg'
  scale: Scale
  guided_channels: int = _static(0)

  def weak_label(self, label, num_classes, key):  # noqa: D102
    del key
    return jnp.full_like(label, num_classes)

  def keep(self, depth, key):  # noqa: D102
    del depth, key

  def transform(self, difference):  # noqa: D102
    if not self.guided_channels:
      return difference
    guided = jnp.arange(difference.shape[-1]) < self.guided_channels
    return jnp.where(guided, difference, 0)

  def check(self, depth):  # noqa: D102
    del depth


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StochasticSelf:
  """S2-Guidance: away from a sub-network drawn anew at every solver step.

  One mask serves the whole batch and all stages of a step. Block 0 is always
  kept, as the paper asks.

  Attributes:
    scale: 1 + omega of the paper.
    skip: blocks skipped; 0 for the default, 1 of up to 12 blocks, else 2.
  """

  name: ClassVar[str] = 's2'
  scale: Scale
  skip: int = _static(0)

  def weak_label(self, label, num_classes, key):  # noqa: D102
    del label, num_classes, key

  def keep(self, depth, key):  # noqa: D102
    skip = self.skip or (1 if depth <= 12 else 2)
    eligible = jnp.arange(1, depth)
    skipped = jax.random.choice(key, eligible, (skip,), replace=False)
    return jnp.ones((1, depth), bool).at[0, skipped].set(False)

  def transform(self, difference):  # noqa: D102
    return difference

  def check(self, depth):  # noqa: D102
    if depth < 3 or not 0 <= self.skip <= depth - 2:
      raise InputError(
        f'guidance s2 with skip={self.skip} needs more than '
        f'{max(self.skip, 1) + 1} blocks (block 0 always runs); the network '
        f'has {depth}.'
      )
