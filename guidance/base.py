"""Guidance methods: each has a weak prediction and moves away from it.

  velocity += push(strong, weak),   usually   (scale - 1) (strong - weak)

The weak prediction comes from

  LabelTerm    the same network with another condition, such as the null label;
               this adds one row per image
  BlocksTerm   sub-networks, which skip some blocks of the same network
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

# State that a method carries from one solver step to the next.
Memory = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
  """The solver step that an evaluation belongs to.

  Attributes:
    at: Time at which scales are read.
    draws: Random choices of each term, from `Guidance.draw`.
    t_next: Time at which the step ends.
    path: Path of the velocity.
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
  """A method, named `name` in text; a `scale` of 1 switches it off."""

  name: ClassVar[str]
  scale: Scale
  # Whether the method is defined only for DDIM steps.
  needs_ddim: ClassVar[bool] = False

  def scale_at(self, step: Step) -> jax.Array:
    """Returns one or more scales; the method is off if all are 1."""
    return self.scale.at(step.at)

  def draw(
    self,
    denoiser: Denoiser,
    condition: Condition,
    key: jax.Array,
    image_keys: jax.Array,
  ) -> Any:
    """Returns the random choices of a solver step, from the step's keys."""

  def init(self, x: jax.Array) -> Memory:
    """Returns the memory at the first step."""
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
    """Returns the change of velocity and the new memory."""
    del place
    return (scale - 1) * (strong - weak), memory

  @property
  def stepwise(self) -> bool:
    """Returns whether it depends on the solver step, not only on (x, t)."""
    return False

  @property
  def zero_steps(self) -> int:
    """Number of initial solver steps that leave x as it is."""
    return 0

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if the method cannot use `denoiser`."""

  def check_shape(self, shape: tuple[int, int, int]) -> None:
    """Raises InputError if the method cannot guide latents (H, W, C)."""


class LabelTerm(Term):
  """Guidance away from another condition, by default the null condition."""

  def weak_condition(
    self, denoiser: Denoiser, condition: Condition, draw: Any
  ) -> Condition:
    """Returns one condition for the weak row of each image."""
    del draw
    return denoiser.null_condition(condition)

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if the network has no null label."""
    if not denoiser.null_label:
      raise InputError(
        f'guidance {self.name} needs the null label, which this network was '
        'not trained on (objective.label_dropout was 0); icg, s2 and ig do '
        'not need it.'
      )


class BlocksTerm(Term):
  """Guidance away from the mean of M sub-networks; its draw is (M, L) bool."""


@dataclasses.dataclass(frozen=True)
class GuideTerm(Term):
  """Guidance away from another network, `guide`."""

  guide: Denoiser | None = None

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError for a missing guide, or one of another task."""
    if self.guide is None:
      raise InputError(
        f'guidance {self.name} needs a weaker network; name its run or folder '
        'of weights with --guide (guide= of a pipeline).'
      )
    if self.guide.num_classes != denoiser.num_classes:
      raise InputError(
        f'the guide has {self.guide.num_classes} classes, the network '
        f'{denoiser.num_classes}; they must be trained for the same task.'
      )


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the inner product for each image, (B, 1, 1, 1)."""
  return jnp.sum(a * b, axis=(1, 2, 3), keepdims=True)
