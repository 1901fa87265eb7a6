"""One-step rules, as data; with h = t_next - t, negative.

  Euler      x + h v(x, t)
  Heun       x + h/2 (v(x, t) + v(x + h v(x, t), t_next)); Euler at the step to
             t = 0, unless told otherwise (EDM, arXiv 2206.00364, algorithm 1)
  Midpoint   x + h v(x + h/2 v(x, t), t + h/2)
  RK4        the 3/8 rule

and of the reverse-time SDE with diffusion g^2 = 2 w(t) (SiT, arXiv 2401.08740,
section 2.4), whose drift is d(x, t) = v - w score:

  EulerMaruyama   x + h d(x, t) + z,   z = sqrt(-2 w h) noise
  HeunMaruyama    y + h/2 (d(y, t) + d(y + h d(y, t), t_next)),   y = x + z

Their step to t = 0 is of its own: `mean` drops the noise, `euler` also the
score, `tweedie` jumps to the predicted x0, `noise` changes nothing.

w is norm times: sigma, linear (t), constant (1), sbdm (the forward SDE's), or
with norm inside: decreasing ((1 - norm cos(pi t))^2 / 4),
increasing_decreasing (norm sin(pi t)^2).

A solver knows nothing of guidance: it sees a function of (x, t).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from dit.config import check_choice, check_range
from dit.path import Path, VariancePreserving
from dit.types import InputError

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


class Solver(Protocol):
  """A rule for one step; frozen and hashable.

  Attributes:
    stochastic: whether `step` uses `noise`.
    learned_variance: whether `velocity` must give (velocity, variance).
  """

  stochastic: bool
  learned_variance: bool

  def step(
    self,
    velocity: Velocity,
    x: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    noise: jax.Array | None,
  ) -> jax.Array:
    """From x at t to x at t_next < t; noise is standard normal, like x."""

  def times(self, t: float, t_next: float) -> list[float]:
    """Where a step evaluates the velocity."""


@dataclasses.dataclass(frozen=True)
class Euler:
  """Order 1, one evaluation."""

  stochastic = learned_variance = False

  def step(self, velocity, x, t, t_next, noise=None):  # noqa: D102
    return x + (t_next - t) * velocity(x, t)

  def times(self, t, t_next):  # noqa: D102
    del t_next
    return [t]


@dataclasses.dataclass(frozen=True)
class Heun:
  """Order 2, two evaluations.

  Attributes:
    last: the step to t = 0: 'euler', or 'heun', which evaluates at t = 0
      (LightningDiT's torchdiffeq).
  """

  last: str = 'euler'
  stochastic = learned_variance = False

  def __post_init__(self) -> None:
    """Checks names."""
    check_choice('heun last', self.last, ('euler', 'heun'))

  def step(self, velocity, x, t, t_next, noise=None):  # noqa: D102
    h = t_next - t
    v = velocity(x, t)
    euler = x + h * v

    def correct():
      return x + h / 2 * (v + velocity(euler, t_next))

    if self.last == 'heun':
      return correct()
    return jax.lax.cond(t_next > 0, correct, lambda: euler)

  def times(self, t, t_next):  # noqa: D102
    return [t, t_next] if t_next > 0 or self.last == 'heun' else [t]


@dataclasses.dataclass(frozen=True)
class Midpoint:
  """Order 2, two evaluations, none at t = 0."""

  stochastic = learned_variance = False

  def step(self, velocity, x, t, t_next, noise=None):  # noqa: D102
    h = t_next - t
    return x + h * velocity(x + h / 2 * velocity(x, t), t + h / 2)

  def times(self, t, t_next):  # noqa: D102
    return [t, (t + t_next) / 2]


@dataclasses.dataclass(frozen=True)
class RK4:
  """Order 4, four evaluations, the last of them at t_next."""

  stochastic = learned_variance = False

  def step(self, velocity, x, t, t_next, noise=None):  # noqa: D102
    h = t_next - t
    v_1 = velocity(x, t)
    v_2 = velocity(x + h / 3 * v_1, t + h / 3)
    v_3 = velocity(x + h * (v_2 - v_1 / 3), t + 2 * h / 3)
    v_4 = velocity(x + h * (v_1 - v_2 + v_3), t_next)
    return x + h / 8 * (v_1 + 3 * (v_2 + v_3) + v_4)

  def times(self, t, t_next):  # noqa: D102
    h = t_next - t
    return [t, t + h / 3, t + 2 * h / 3, t_next]


DIFFUSIONS = {
  'sigma': lambda path, t, norm: norm * path.sigma(t),
  'linear': lambda path, t, norm: norm * t,
  'constant': lambda path, t, norm: norm * jnp.ones_like(t),
  'sbdm': lambda path, t, norm: norm * path.forward_diffusion(t),
  'decreasing': lambda path, t, norm: (1 - norm * jnp.cos(jnp.pi * t)) ** 2 / 4,
  'increasing_decreasing': lambda path, t, norm: (
    norm * jnp.sin(jnp.pi * t) ** 2
  ),
}
LASTS = ('mean', 'euler', 'tweedie', 'noise')


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
  """Strong order 1/2, one evaluation.

  Attributes:
    path: that the velocity belongs to; its score is needed.
    diffusion: form of w, one of DIFFUSIONS; on the linear path the default is
      that of SiT and Internal Guidance, g^2 = 2 t.
    norm: of w.
    last: the step to t = 0, one of LASTS.
  """

  path: Path
  diffusion: str = 'linear'
  norm: float = 1.0
  last: str = 'mean'
  stochastic = True
  learned_variance = False

  def __post_init__(self) -> None:
    """Checks names and ranges."""
    check_choice('solver diffusion', self.diffusion, DIFFUSIONS)
    check_range('solver norm', self.norm, 0, float('inf'))
    if self.diffusion == 'sbdm' and not isinstance(
      self.path, VariancePreserving
    ):
      raise InputError(
        'solver diffusion sbdm is infinite at the noise end of this path; it '
        'needs a variance preserving one (vp or discrete).'
      )
    check_choice('solver last', self.last, LASTS)

  def step(self, velocity, x, t, t_next, noise):  # noqa: D102
    h = t_next - t
    v = velocity(x, t)
    x_next = x + h * self._drift(v, x, t) + self._noise_scale(t, h) * noise
    return jnp.where(t_next > 0, x_next, self._end(v, x, t, x_next))

  def times(self, t, t_next):  # noqa: D102
    del t_next
    return [t]

  def _drift(self, v: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    w = DIFFUSIONS[self.diffusion](self.path, t, self.norm)
    return v - w * self.path.score_from_velocity(x, v, t)

  def _noise_scale(self, t: jax.Array, h: jax.Array) -> jax.Array:
    w = DIFFUSIONS[self.diffusion](self.path, t, self.norm)
    return jnp.sqrt(-2 * w * h)

  def _end(self, v, x, t, otherwise) -> jax.Array:
    """The step from t to 0."""
    if self.last == 'mean':
      return x - t * self._drift(v, x, t)
    if self.last == 'euler':
      return x - t * v
    if self.last == 'tweedie':
      return self.path.x0_from_velocity(x, v, t)
    return otherwise


@dataclasses.dataclass(frozen=True)
class HeunMaruyama(EulerMaruyama):
  """SiT's Heun for the SDE: the noise first; two evaluations, one at the end.

  Its last step cannot be 'noise', as the score is infinite at t = 0.
  """

  def __post_init__(self) -> None:
    """Checks names."""
    super().__post_init__()
    check_choice('solver last', self.last, LASTS[:-1])

  def step(self, velocity, x, t, t_next, noise):  # noqa: D102
    h = t_next - t
    ends = t_next <= 0
    y = x + jnp.where(ends, 0, self._noise_scale(t, h)) * noise
    v = velocity(y, t)
    drift = self._drift(v, y, t)

    def correct():
      euler = y + h * drift
      corrected = self._drift(velocity(euler, t_next), euler, t_next)
      return y + h / 2 * (drift + corrected)

    return jax.lax.cond(ends, lambda: self._end(v, y, t, y), correct)

  def times(self, t, t_next):  # noqa: D102
    return [t, t_next] if t_next > 0 else [t]
