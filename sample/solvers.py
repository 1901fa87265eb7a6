"""Solvers: rules for one step from t to t_next, with h = t_next - t < 0.

For the ODE dx/dt = v(x, t):

  Euler      x + h v(x, t)
  Heun       x + h/2 (v(x, t) + v(x + h v(x, t), t_next)); by default Euler at
             the step to t = 0 (EDM, arXiv 2206.00364, algorithm 1)
  Renoise    alpha' x0 + sigma' noise with x0 from v(x, t), for consistency
             models and students of DMD (arXiv 2303.01469, algorithm 1)
  Midpoint   x + h v(x + h/2 v(x, t), t + h/2)
  RK4        the 3/8 rule
  DPMSolver  DPM-Solver++(2M), arXiv 2211.01095: with l = log(alpha / sigma),
             x' = sigma'/sigma x + (alpha' - sigma'/sigma alpha) D,
             D  = x0 + (l' - l) / (l - l_before) / 2 (x0 - x0_before)

For the reverse-time SDE with diffusion g^2 = 2 w(t) and drift
d(x, t) = v - w score (SiT, arXiv 2401.08740, section 2.4):

  EulerMaruyama   x + h d(x, t) + z,   z = sqrt(-2 w h) noise
  HeunMaruyama    y + h/2 (d(y, t) + d(y + h d(y, t), t_next)),   y = x + z

Their step to t = 0 is special: `mean` drops the noise, `euler` drops noise and
score, `tweedie` jumps to the predicted x0, and `noise` changes nothing.

w is norm times sigma, t (linear), 1 (constant) or the forward SDE's value
(sbdm), or (1 - norm cos(pi t))^2 / 4 (decreasing) or norm sin(pi t)^2
(increasing_decreasing).

Solvers do not know about guidance; they call a function of (x, t).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.errors import InputError, check_choice, check_range
from core.ranges import LARGE
from dit.path import Path, VariancePreserving

Velocity = Callable[[jax.Array, jax.Array], jax.Array]
Memory = Any


class Evaluation(NamedTuple):
  """An evaluation at (x, t), such as guidance's `Guided`.

  `variance` is learned, or None. `memory` goes to the next step's evaluations.
  """

  velocity: jax.Array
  variance: jax.Array | None = None
  memory: Any = ()


@dataclasses.dataclass(frozen=True)
class Solver(abc.ABC):
  """A rule for one step; subclasses are frozen and hashable."""

  # The solver of `sample.adaptive` chooses its own steps.
  adaptive = False

  @property
  def stochastic(self) -> bool:
    """Returns whether `noise` is used."""
    return False

  @property
  def learned_variance(self) -> bool:
    """Returns whether the network's learned variance is used."""
    return False

  @property
  def ddim(self) -> bool:
    """Returns whether a step is a DDIM step."""
    return False

  def init(self, x: jax.Array) -> Memory:
    """Returns the memory before the first step, for states like x."""
    del x
    return ()

  def perturb(
    self,
    x: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    noise: jax.Array | None,
  ) -> jax.Array:
    """Returns the (x, t) at which the step first evaluates the network."""
    del t, t_next, noise
    return x

  @abc.abstractmethod
  def advance(
    self,
    velocity: Velocity,
    first: Evaluation,
    x: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    noise: jax.Array | None,
    memory: Memory,
  ) -> tuple[jax.Array, Memory]:
    """Returns the state at t_next, and the memory.

    Args:
      velocity: Function of (x, t), for further evaluations.
      first: Evaluation at (x, t).
      x: State (B, H, W, C), from `perturb`.
      t: Scalar time.
      t_next: Scalar time below t.
      noise: Standard normal noise like x, if `stochastic`.
      memory: Memory from `init` or the previous step.
    """

  def times(self, t: float, t_next: float) -> list[float]:
    """Returns the times of a step's evaluations, rounded as in `advance`."""
    del t_next
    return [t]


class OneStep(Solver):
  """A solver without memory."""

  @abc.abstractmethod
  def step(
    self,
    velocity: Velocity,
    first: Evaluation,
    x: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    noise: jax.Array | None,
  ) -> jax.Array:
    """Returns the state at t_next; arguments are as in `advance`."""

  def advance(self, velocity, first, x, t, t_next, noise, memory):  # noqa: D102
    return self.step(velocity, first, x, t, t_next, noise), memory


@dataclasses.dataclass(frozen=True)
class Euler(OneStep):
  """Order 1, one evaluation."""

  def step(self, velocity, first, x, t, t_next, noise):  # noqa: D102
    del velocity, noise
    return x + (t_next - t) * first.velocity


@dataclasses.dataclass(frozen=True)
class Renoise(OneStep):
  """Jumps to the predicted x0 and adds fresh noise; one evaluation."""

  path: Path
  stochastic = True

  def step(self, velocity, first, x, t, t_next, noise):  # noqa: D102
    del velocity
    x0 = self.path.x0_from_velocity(x, first.velocity, t)
    return self.path.interpolate(x0, noise, t_next)


@dataclasses.dataclass(frozen=True)
class Heun(OneStep):
  """Order 2, two evaluations.

  Attributes:
    final_step: Rule for the step to t = 0: 'euler', or 'heun', which evaluates
      at t = 0, as LightningDiT does with torchdiffeq.
  """

  final_step: str = 'euler'

  def __post_init__(self) -> None:
    check_choice('heun final_step', self.final_step, ('euler', 'heun'))

  def step(self, velocity, first, x, t, t_next, noise):  # noqa: D102
    del noise
    h, v = t_next - t, first.velocity
    euler = x + h * v

    def correct():
      return x + h / 2 * (v + velocity(euler, t_next))

    if self.final_step == 'heun':
      return correct()
    return jax.lax.cond(t_next > 0, correct, lambda: euler)

  def times(self, t, t_next):  # noqa: D102
    return [t, t_next] if t_next > 0 or self.final_step == 'heun' else [t]


@dataclasses.dataclass(frozen=True)
class Midpoint(OneStep):
  """Order 2, two evaluations, none at t = 0."""

  def step(self, velocity, first, x, t, t_next, noise):  # noqa: D102
    del noise
    h = t_next - t
    return x + h * velocity(x + h / 2 * first.velocity, t + h / 2)

  def times(self, t, t_next):  # noqa: D102
    return [t, t + (t_next - t) / 2]


@dataclasses.dataclass(frozen=True)
class RK4(OneStep):
  """Order 4, four evaluations, the last one at t_next."""

  def step(self, velocity, first, x, t, t_next, noise):  # noqa: D102
    del noise
    h, v_1 = t_next - t, first.velocity
    v_2 = velocity(x + h / 3 * v_1, t + h / 3)
    v_3 = velocity(x + h * (v_2 - v_1 / 3), t + 2 * h / 3)
    v_4 = velocity(x + h * (v_1 - v_2 + v_3), t_next)
    return x + h / 8 * (v_1 + 3 * (v_2 + v_3) + v_4)

  def times(self, t, t_next):  # noqa: D102
    h = t_next - t
    return [t, t + h / 3, t + 2 * h / 3, t_next]


@dataclasses.dataclass(frozen=True)
class DPMSolver(Solver):
  """DPM-Solver++(2M): order 2, one evaluation; x0 extrapolated over two steps.

  It takes a DDIM step first, from t = 1, to t = 0, and after a step of infinite
  length in log(alpha / sigma).
  """

  path: Path

  def init(self, x):  # noqa: D102
    return x, jnp.zeros((), x.dtype)  # no step before

  def advance(self, velocity, first, x, t, t_next, noise, memory):  # noqa: D102
    del velocity, noise
    path, (x0_before, t_before) = self.path, memory
    x0 = path.x0_from_velocity(x, first.velocity, t)
    h_before, h = (
      self._log_ratio(a) - self._log_ratio(b)
      for a, b in ((t_before, t), (t, t_next))
    )
    # Infinite steps, from t = 1 or to t = 0, have no slope.
    known = jnp.isfinite(h_before) & (t_before > t)
    slope = jnp.where(known, h / h_before, 0)
    slope = jnp.where(t_next > 0, slope, 0)
    target = x0 + slope / 2 * (x0 - x0_before)
    shrink = path.sigma(t_next) / path.sigma(t)
    x_next = shrink * x + (path.alpha(t_next) - shrink * path.alpha(t)) * target
    return x_next, (x0, jnp.asarray(t, x.dtype))

  def _log_ratio(self, t: jax.Array) -> jax.Array:
    """Returns log(sigma / alpha), infinite at both ends of a path."""
    alpha = self.path.alpha(t)
    # At t = 1 alpha should be 0, but cos(pi / 2) is rounded.
    log_alpha = jnp.where(alpha > 1e-6, jnp.log(alpha), -jnp.inf)
    return jnp.log(self.path.sigma(t)) - log_alpha


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
FINAL_STEPS = ('mean', 'euler', 'tweedie', 'noise')


@dataclasses.dataclass(frozen=True)
class EulerMaruyama(OneStep):
  """Strong order 1/2, one evaluation.

  Attributes:
    path: Path of the velocity and score.
    diffusion: Form of w, one of DIFFUSIONS. On the linear path the default is
      that of SiT and Internal Guidance, g^2 = 2 t.
    norm: Norm of w.
    final_step: Rule for the step to t = 0, one of FINAL_STEPS.
  """

  path: Path
  diffusion: str = 'linear'
  norm: float = 1.0
  final_step: str = 'mean'
  stochastic = True

  def __post_init__(self) -> None:
    check_choice('solver diffusion', self.diffusion, DIFFUSIONS)
    check_range('solver norm', self.norm, 0, LARGE)
    if self.diffusion == 'sbdm' and not isinstance(
      self.path, VariancePreserving
    ):
      raise InputError(
        'solver diffusion sbdm is infinite at the noise end of this path; it '
        'needs a variance preserving one (vp or discrete).'
      )
    check_choice('solver final_step', self.final_step, FINAL_STEPS)

  def step(self, velocity, first, x, t, t_next, noise):  # noqa: D102
    del velocity
    h, v = t_next - t, first.velocity
    x_next = x + h * self._drift(v, x, t) + self._noise_scale(t, h) * noise
    return jnp.where(t_next > 0, x_next, self._end(v, x, t, x_next))

  def _drift(self, v: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    w = DIFFUSIONS[self.diffusion](self.path, t, self.norm)
    return v - w * self.path.score_from_velocity(x, v, t)

  def _noise_scale(self, t: jax.Array, h: jax.Array) -> jax.Array:
    w = DIFFUSIONS[self.diffusion](self.path, t, self.norm)
    return jnp.sqrt(-2 * w * h)

  def _end(
    self, v: jax.Array, x: jax.Array, t: jax.Array, otherwise: jax.Array
  ) -> jax.Array:
    """Returns the state after the step from t to 0."""
    if self.final_step == 'mean':
      return x - t * self._drift(v, x, t)
    if self.final_step == 'euler':
      return x - t * v
    if self.final_step == 'tweedie':
      return self.path.x0_from_velocity(x, v, t)
    return otherwise


@dataclasses.dataclass(frozen=True)
class HeunMaruyama(EulerMaruyama):
  """SiT's Heun for the SDE: noise first, two evaluations, one in the last step.

  The last step cannot be 'noise', since the score is infinite at t = 0.
  """

  def __post_init__(self) -> None:
    super().__post_init__()
    check_choice('solver final_step', self.final_step, FINAL_STEPS[:-1])

  def perturb(self, x, t, t_next, noise):  # noqa: D102
    scale = self._noise_scale(t, t_next - t)
    return x + jnp.where(t_next > 0, scale, 0) * noise

  def step(self, velocity, first, x, t, t_next, noise):  # noqa: D102
    del noise
    h, v = t_next - t, first.velocity
    drift = self._drift(v, x, t)

    def correct():
      euler = x + h * drift
      corrected = self._drift(velocity(euler, t_next), euler, t_next)
      return x + h / 2 * (drift + corrected)

    return jax.lax.cond(t_next > 0, correct, lambda: self._end(v, x, t, x))

  def times(self, t, t_next):  # noqa: D102
    return [t, t_next] if t_next > 0 else [t]
