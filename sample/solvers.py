"""One-step rules, as data; with h = t_next - t, negative.

  Euler            x + h v(x, t)
  Heun             x + h/2 (v(x, t) + v(x + h v(x, t), t_next)); Euler at the
                   step to t = 0 (EDM, arXiv 2206.00364, algorithm 1)
  Euler-Maruyama   x + h (v - g^2/2 score) + g sqrt(-h) noise, g^2 = 2 t, and
                   no noise at the step to t = 0 (SiT, arXiv 2401.08740)

A solver knows nothing of guidance: it sees a function of (x, t).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from dit.config import check_choice
from dit.path import Path

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


class Solver(Protocol):
  """A rule for one step; frozen and hashable.

  Attributes:
    stochastic: whether `step` uses `noise`.
  """

  stochastic: bool

  def step(
    self,
    velocity: Velocity,
    x: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    noise: jax.Array | None,
  ) -> jax.Array:
    """From x at t to x at t_next < t; noise is standard normal, like x."""

  def evaluations(self, t_next: float) -> int:
    """How often a step to `t_next` evaluates the velocity."""


@dataclasses.dataclass(frozen=True)
class Euler:
  """Order 1, one evaluation."""

  stochastic = False

  def step(self, velocity, x, t, t_next, noise=None):  # noqa: D102
    return x + (t_next - t) * velocity(x, t)

  def evaluations(self, t_next):  # noqa: D102
    del t_next
    return 1


@dataclasses.dataclass(frozen=True)
class Heun:
  """Order 2, two evaluations."""

  stochastic = False

  def step(self, velocity, x, t, t_next, noise=None):  # noqa: D102
    h = t_next - t
    v = velocity(x, t)
    euler = x + h * v

    def correct():
      return x + h / 2 * (v + velocity(euler, t_next))

    return jax.lax.cond(t_next > 0, correct, lambda: euler)

  def evaluations(self, t_next):  # noqa: D102
    return 2 if t_next > 0 else 1


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
  """The reverse-time SDE with diffusion g^2 = 2 t; strong order 1/2.

  Attributes:
    path: that the velocity belongs to; its score is needed.
  """

  path: Path
  stochastic = True

  def step(self, velocity, x, t, t_next, noise):  # noqa: D102
    h = t_next - t
    v = velocity(x, t)
    score = self.path.score_from_velocity(x, v, t)
    x = x + h * (v - t * score)
    scale = jnp.where(t_next > 0, jnp.sqrt(2 * t * -h), 0)
    return x + scale * noise

  def evaluations(self, t_next):  # noqa: D102
    del t_next
    return 1


SOLVERS = ('euler', 'heun', 'euler_maruyama')


def make_solver(name: str, path: Path) -> Solver:
  """The solver called `name`; InputError names the known ones."""
  check_choice('sampler solver', name, SOLVERS)
  if name == 'euler_maruyama':
    return EulerMaruyama(path)
  return {'euler': Euler, 'heun': Heun}[name]()
