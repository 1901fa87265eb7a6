"""What a method is: a weak prediction, and how to move away from it.

  velocity += push(strong, weak),   mostly   (scale - 1) (strong - weak)

The weak prediction is one of three kinds:

  LabelTerm    the same network, another condition, such as the null label: one
               more row per image
  BlocksTerm   the same network, some blocks skipped: sub-networks
  GuideTerm    another network
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from core.errors import InputError
from dit.path import Linear, Path
from dit.types import Condition, Denoiser
from guidance.scale import Scale, static

# What a method carries from one solver step to the next.
Memory = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
  """The step of a solver that an evaluation belongs to.

  Attributes:
    at: time at which scales are read.
    draws: the random choices of every term, from `Guidance.draw`.
    t_next: time at which the step ends.
    path: that the velocity belongs to.
  """

  at: jax.Array
  draws: tuple[Any, ...]
  t_next: jax.Array | float = 0.0
  path: Path = static(Linear())  # noqa: RUF009 - frozen


class Place(NamedTuple):
  """The point of a prediction: x (B, H, W, C) at scalar t on a path."""

  x: jax.Array
  t: jax.Array
  path: Path


@dataclasses.dataclass(frozen=True)
class Term:
  """A method; subclasses are frozen dataclasses with a field `scale`.

  Attributes:
    name: in text.
    scale: 1 is off.
  """

  name: ClassVar[str]
  scale: Scale
  # Whether the method means something only with DDIM's step.
  needs_ddim: ClassVar[bool] = False

  def scale_at(self, step: Step) -> jax.Array:
    """The scale, or several of them; the method is off where all are 1."""
    return self.scale.at(step.at)

  def draw(
    self,
    denoiser: Denoiser,
    condition: Condition,
    key: jax.Array,
    image_keys: jax.Array,
  ) -> Any:
    """Random choices of one solver step, from keys of that step."""

  def init(self, x: jax.Array) -> Memory:
    """Memory at the first step."""
    del x
    return ()

  def push(
    self,
    strong: jax.Array,
    weak: jax.Array,
    scale: jax.Array,
    place: Place,
    memory: Memory,
  ) -> tuple[jax.Array, Memory]:
    """What the method adds to the velocity, and its memory."""
    del place
    return (scale - 1) * (strong - weak), memory

  @property
  def stepwise(self) -> bool:
    """Returns whether it depends on the solver's step beside (x, t)."""
    return False

  @property
  def zero_steps(self) -> int:
    """Solver steps, from the noise, left out where it is on: x stays."""
    return 0

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if `denoiser` cannot serve the method."""

  def check_shape(self, shape: tuple[int, int, int]) -> None:
    """Raises InputError if latents (H, W, C) do not suit the method."""


class LabelTerm(Term):
  """Away from another condition, the null one unless a subclass says otherwise.

  A composition has at most one.
  """

  def weak_condition(
    self, denoiser: Denoiser, condition: Condition, draw: Any
  ) -> Condition:
    """Returns the conditions of the weak rows, as many as `condition` has."""
    del draw
    return denoiser.null_condition(condition)

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError where the network has no null label."""
    if not denoiser.null_label:
      raise InputError(
        f'guidance {self.name} needs the null label, which this network was '
        'not trained on (objective.label_dropout was 0); icg, s2 and ig do '
        'without.'
      )


class BlocksTerm(Term):
  """Away from the mean of sub-networks; its draw is `keep`, (M, L) bool."""


@dataclasses.dataclass(frozen=True)
class GuideTerm(Term):
  """Away from another network, `guide`."""

  guide: Denoiser | None = None

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError without a guide, or for one of another task."""
    if self.guide is None:
      raise InputError(
        f'guidance {self.name} needs a weaker network; name its run or folder '
        'of weights with --guide (guide= of a pipeline).'
      )
    if self.guide.num_classes != denoiser.num_classes:
      raise InputError(
        f'the guide knows {self.guide.num_classes} classes, the network '
        f'{denoiser.num_classes}; they must be trained for the same task.'
      )


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
  """Inner product for each image, (B, 1, 1, 1)."""
  return jnp.sum(a * b, axis=(1, 2, 3), keepdims=True)
