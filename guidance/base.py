"""Guidance methods, which move the velocity away from a weak prediction.

  velocity += push(strong, weak),   usually   (scale - 1) (strong - weak)

The weak prediction comes from

  LabelTerm    the guided network with another condition, such as the null
               label; the batch then has an additional row for each image
  BlocksTerm   sub-networks, which skip some blocks of the guided network
  GuideTerm    another network
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from core.errors import InputError
from dit.path import Linear, Path
from dit.types import Condition, Denoiser
from guidance.scale import Scale, static

# State that a method passes from one solver step to the next.
Memory = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
  """The solver step that an evaluation belongs to.

  Attributes:
    at: Time at which scales are evaluated.
    draws: Random choices of each term, from `Guidance.draw`.
    t_next: Time at which the step ends.
    path: Path of the velocity.
  """

  at: jax.Array
  draws: tuple[Any, ...]
  t_next: jax.Array | float = 0.0
  path: Path = static(Linear())  # noqa: RUF009 - frozen


@dataclasses.dataclass(frozen=True)
class Contrast:
  """The inputs from which a method computes a change of the velocity at (x, t).

  Attributes:
    strong: Conditional velocity (B, H, W, C), after IG if IG is active.
    weak: Weak velocity (B, H, W, C).
    scale: Scale, or several scales, from `Term.scale_at`.
    x: State (B, H, W, C).
    t: Scalar time.
    path: Path of the velocities.
    memory: Memory from `Term.init` or from the previous step.
  """

  strong: jax.Array
  weak: jax.Array
  scale: jax.Array
  x: jax.Array
  t: jax.Array
  path: Path
  memory: Memory = ()

  @property
  def difference(self) -> jax.Array:
    """Difference strong - weak."""
    return self.strong - self.weak


@dataclasses.dataclass(frozen=True)
class Term:
  """A guidance method, called `name` in guidance text; scale 1 disables it."""

  name: ClassVar[str]
  title: ClassVar[str]  # name for people
  weak_title: ClassVar[str]  # description of the weak prediction for people
  scale: Scale
  # Whether the method is defined only for DDIM steps.
  needs_ddim: ClassVar[bool] = False
  # Whether the weak prediction is that of the null condition.
  uses_null: ClassVar[bool] = False

  def scale_at(self, step: Step) -> jax.Array:
    """Returns one or more scales; the method is inactive if all are 1."""
    return self.scale.at(step.at)

  def draw(
    self,
    denoiser: Denoiser,
    condition: Condition,
    key: jax.Array,
    image_keys: jax.Array,
  ) -> Any:
    """Returns the random choices of a solver step.

    Args:
      denoiser: Network.
      condition: Conditions with leading axis B; None to choose only blocks.
      key: Random key of the step.
      image_keys: Random keys (B,) of the step, one for each image.
    """

  def init(self, x: jax.Array) -> Memory:
    """Returns the method's memory for the first step."""
    del x
    return ()

  def push(self, at: Contrast) -> tuple[jax.Array, Memory]:
    """Returns the velocity change (B, H, W, C) and the next step's memory."""
    return (at.scale - 1) * at.difference, at.memory

  @property
  def stepwise(self) -> bool:
    """Returns whether the method needs the solver step as well as (x, t)."""
    return False

  @property
  def zero_steps(self) -> int:
    """Number of initial solver steps that leave x unchanged."""
    return 0

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if the method cannot use `denoiser`."""

  def check_shape(self, shape: tuple[int, int, int]) -> None:
    """Raises InputError if the method cannot guide latents (H, W, C)."""


class LabelTerm(Term):
  """Guidance away from another condition; the default is the null condition."""

  uses_null: ClassVar[bool] = True
  weak_title: ClassVar[str] = 'the prediction without a class'

  def weak_condition(
    self, denoiser: Denoiser, condition: Condition, draw: Any
  ) -> Condition:
    """Returns the condition for the weak prediction of each image."""
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
  """Guidance away from the mean of M sub-networks.

  `draw` returns a mask (M, L) bool of the blocks that each sub-network keeps.
  """


@dataclasses.dataclass(frozen=True)
class GuideTerm(Term):
  """Guidance away from another network, `guide`."""

  weak_title: ClassVar[str] = 'a weaker network'

  guide: Denoiser | None = None

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if the guide is missing or its class count differs."""
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
