"""Solvers: rules for one step from t to t_next, with h = t_next - t < 0.

For the ODE dx/dt = v(x, t), with primes for values at t_next:

  Euler      x + h v(x, t)
  Heun       x + h/2 (v(x, t) + v(x + h v(x, t), t_next)); by default, the step
             to t = 0 is an Euler step (EDM, arXiv 2206.00364, algorithm 1)
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

The step to t = 0 depends on `final_step`: `mean` drops the noise, `euler` drops
noise and score, `tweedie` jumps to the predicted x0, and `noise` is an ordinary
step.

The option `diffusion` selects w(t): `sigma` is norm sigma(t), `linear` is
norm t, `constant` is norm, `sbdm` is norm times w of the forward SDE,
`decreasing` is (1 - norm cos(pi t))^2 / 4, and `increasing_decreasing` is
norm sin(pi t)^2.

Solvers are independent of guidance, since they call any function of (x, t).
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.errors import InputError, check_choice, check_range
from core.ranges import LARGE
from dit.path import Path, VariancePreserving

Memory = Any


class Evaluation(NamedTuple):
  """The result of an evaluation at (x, t), such as guidance's `Guided`.

  `variance` is the learned variance, or None. `memory` is guidance's memory for
  the next step.
  """

  velocity: jax.Array
  variance: jax.Array | None = None
  memory: Any = ()


@dataclasses.dataclass(frozen=True)
class Interval:
  """A step from (x, t) to t_next, with its first evaluation.

  Attributes:
    x: State (B, H, W, C), from `Solver.perturb`.
    t: Scalar time.
    t_next: Scalar time below t.
    first: Evaluation at (x, t).
    noise: Standard normal, shaped like x; None for a deterministic solver.
    evaluate: Function that maps (x, t) to the velocity; None if the solver
      needs only the first evaluation.
  """

  x: jax.Array
  t: jax.Array
  t_next: jax.Array
  first: Evaluation
  noise: Any = None
  evaluate: Any = None

  @property
  def h(self) -> jax.Array:
    """Length t_next - t, which is negative."""
    return self.t_next - self.t

  @property
  def velocity(self) -> jax.Array:
    """Velocity at (x, t)."""
    return self.first.velocity


@dataclasses.dataclass(frozen=True)
class Solver(abc.ABC):
  """A rule for one step. Subclasses are frozen and hashable."""

  # Whether the solver chooses its own steps, as in `sample.adaptive`.
  adaptive = False

  @property
  def stochastic(self) -> bool:
    """Returns whether the solver uses `noise`."""
    return False

  @property
  def learned_variance(self) -> bool:
    """Returns whether the solver uses the network's learned variance."""
    return False

  @property
  def ddim(self) -> bool:
    """Returns whether a step is a DDIM step."""
    return False

  def init(self, x: jax.Array) -> Memory:
    """Returns the solver's memory for the first step; x is the first state."""
    del x
    return ()

  def perturb(
    self, x: jax.Array, t: jax.Array, t_next: jax.Array, noise: Any
  ) -> jax.Array:
    """Returns the state at which the step first evaluates the network."""
    del t, t_next, noise
    return x

  @abc.abstractmethod
  def advance(self, at: Interval, memory: Memory) -> tuple[jax.Array, Memory]:
    """Returns the state at t_next, and the memory for the next step.

    Args:
      at: Step.
      memory: Memory from `init` or the previous step.
    """

  def times(self, t: float, t_next: float) -> list[float]:
    """Returns the times of a step's evaluations, rounded as in `advance`."""
    del t_next
    return [t]


class OneStep(Solver):
  """A solver without memory."""

  @abc.abstractmethod
  def step(self, at: Interval) -> jax.Array:
    """Returns the state at t_next."""

  def advance(self, at: Interval, memory: Memory) -> tuple[jax.Array, Memory]:
    """Returns the state of `step`, and the memory unchanged."""
    return self.step(at), memory


@dataclasses.dataclass(frozen=True)
class Euler(OneStep):
  """Euler's method: order 1, one evaluation per step."""

  def step(self, at: Interval) -> jax.Array:
    """Returns x + h v(x, t)."""
    return at.x + at.h * at.velocity


@dataclasses.dataclass(frozen=True)
class Renoise(OneStep):
  """A jump to the predicted x0, then new noise for t_next; one evaluation."""

  path: Path
  stochastic = True

  def step(self, at: Interval) -> jax.Array:
    """Returns the predicted x0 with new noise for t_next."""
    x0 = self.path.x0_from_velocity(at.x, at.velocity, at.t)
    return self.path.interpolate(x0, at.noise, at.t_next)


@dataclasses.dataclass(frozen=True)
class Heun(OneStep):
  """Heun's method: order 2, two evaluations per step.

  Attributes:
    final_step: Rule for the step to t = 0, 'euler' or 'heun'. 'heun' evaluates
      at t = 0, as LightningDiT does with torchdiffeq.
  """

  final_step: str = 'euler'

  def __post_init__(self) -> None:
    check_choice('heun final_step', self.final_step, ('euler', 'heun'))

  def step(self, at: Interval) -> jax.Array:
    """Returns the state after Heun's step, or after Euler's step to t = 0."""
    euler = at.x + at.h * at.velocity

    def correct():
      v_next = at.evaluate(euler, at.t_next)
      return at.x + at.h / 2 * (at.velocity + v_next)

    if self.final_step == 'heun':
      return correct()
    return jax.lax.cond(at.t_next > 0, correct, lambda: euler)

  def times(self, t: float, t_next: float) -> list[float]:
    """Returns both ends of the step, or only t for Euler's step."""
    return [t, t_next] if t_next > 0 or self.final_step == 'heun' else [t]


@dataclasses.dataclass(frozen=True)
class Midpoint(OneStep):
  """The midpoint method: order 2, two evaluations per step, none at t = 0."""

  def step(self, at: Interval) -> jax.Array:
    """Returns x + h v(x + h/2 v(x, t), t + h/2)."""
    x, t, h = at.x, at.t, at.h
    return x + h * at.evaluate(x + h / 2 * at.velocity, t + h / 2)

  def times(self, t: float, t_next: float) -> list[float]:
    """Returns the beginning and the middle of the step."""
    return [t, t + (t_next - t) / 2]


@dataclasses.dataclass(frozen=True)
class RK4(OneStep):
  """The 3/8 rule: order 4, four evaluations per step, the last at t_next."""

  def step(self, at: Interval) -> jax.Array:
    """Returns the state after a step of the 3/8 rule."""
    x, t, h, v_1 = at.x, at.t, at.h, at.velocity
    v_2 = at.evaluate(x + h / 3 * v_1, t + h / 3)
    v_3 = at.evaluate(x + h * (v_2 - v_1 / 3), t + 2 * h / 3)
    v_4 = at.evaluate(x + h * (v_1 - v_2 + v_3), at.t_next)
    return x + h / 8 * (v_1 + 3 * (v_2 + v_3) + v_4)

  def times(self, t: float, t_next: float) -> list[float]:
    """Returns the times of the four evaluations."""
    h = t_next - t
    return [t, t + h / 3, t + 2 * h / 3, t_next]


@dataclasses.dataclass(frozen=True)
class DPMSolver(Solver):
  """DPM-Solver++(2M): order 2, one evaluation per step.

  The solver extrapolates x0 from the previous step. Three steps are DDIM steps
  instead: the first step, the step to t = 0 and, if alpha(1) = 0, the step
  after a step from t = 1.
  """

  path: Path

  def init(self, x: jax.Array) -> Memory:
    """Returns placeholders for x0 and t of the previous step."""
    return x, jnp.zeros((), x.dtype)

  def advance(self, at: Interval, memory: Memory) -> tuple[jax.Array, Memory]:
    """Returns the state at t_next, and the x0 and t of this step."""
    path, t, t_next, (x0_before, t_before) = self.path, at.t, at.t_next, memory
    x0 = path.x0_from_velocity(at.x, at.velocity, t)
    h_before, h = (
      self._log_ratio(a) - self._log_ratio(b)
      for a, b in ((t_before, t), (t, t_next))
    )
    # The slope is 0 in the first step or if l' - l or l - l_before is infinite.
    has_memory = jnp.isfinite(h_before) & (t_before > t)
    slope = jnp.where(has_memory, h / h_before, 0)
    slope = jnp.where(t_next > 0, slope, 0)
    target = x0 + slope / 2 * (x0 - x0_before)
    shrink = path.sigma(t_next) / path.sigma(t)
    scale = path.alpha(t_next) - shrink * path.alpha(t)
    return shrink * at.x + scale * target, (x0, jnp.asarray(t, at.x.dtype))

  def _log_ratio(self, t: jax.Array) -> jax.Array:
    """Returns log(sigma / alpha), which is infinite if alpha or sigma is 0."""
    alpha = self.path.alpha(t)
    # At t = 1, alpha should be 0, but cos(pi / 2) has a rounding error.
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
  """Euler-Maruyama for the SDE: strong order 1/2, one evaluation per step.

  Attributes:
    path: Path of the velocity and score.
    diffusion: Form of w, one of DIFFUSIONS. On the linear path, the default
      gives g^2 = 2 t, as in SiT and Internal Guidance.
    norm: Constant `norm` in the formula of w.
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

  def step(self, at: Interval) -> jax.Array:
    """Returns x + h d(x, t) + z, or the state after the final step."""
    x, t, v = at.x, at.t, at.velocity
    z = self._noise_scale(t, at.h) * at.noise
    x_next = x + at.h * self._drift(v, x, t) + z
    return jnp.where(at.t_next > 0, x_next, self._end(v, x, t, x_next))

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
  """SiT's Heun method for the SDE, which adds the noise before the drift.

  A step has two evaluations, but the last step has one. `final_step` cannot be
  'noise', since the score is infinite at t = 0.
  """

  def __post_init__(self) -> None:
    super().__post_init__()
    check_choice('solver final_step', self.final_step, FINAL_STEPS[:-1])

  def perturb(
    self, x: jax.Array, t: jax.Array, t_next: jax.Array, noise: Any
  ) -> jax.Array:
    """Returns y = x + z, or x in the step to t = 0."""
    scale = self._noise_scale(t, t_next - t)
    return x + jnp.where(t_next > 0, scale, 0) * noise

  def step(self, at: Interval) -> jax.Array:
    """Returns the state after Heun's step, or after the final step."""
    x, t, t_next, v = at.x, at.t, at.t_next, at.velocity
    drift = self._drift(v, x, t)

    def correct():
      euler = x + at.h * drift
      slope = self._drift(at.evaluate(euler, t_next), euler, t_next)
      return x + at.h / 2 * (drift + slope)

    return jax.lax.cond(t_next > 0, correct, lambda: self._end(v, x, t, x))

  def times(self, t: float, t_next: float) -> list[float]:
    """Returns both ends of the step, or only t for the last step."""
    return [t, t_next] if t_next > 0 else [t]
