"""DiT's samplers on its discrete schedule (Ho et al. 2020; Nichol & Dhariwal).

With a = alpha(t)^2, a' = alpha(t_next)^2, beta = 1 - a / a' and the predicted
x0 and noise at (x, t):

  DDPM   mean + exp(log_variance / 2) z
         mean          = sqrt(a') beta / (1 - a) x0
                         + sqrt(1 - beta) (1 - a') / (1 - a) x
         small         = beta (1 - a') / (1 - a)
         log_variance  = f log beta + (1 - f) log small, f = (variance + 1) / 2,
                         with the learned `variance`
  DDIM   sqrt(a') x0 + sqrt(1 - a' - s^2) noise + s z
         s = eta sqrt(small)                          (arXiv 2010.02502, eq. 12)

z is standard normal, but the step to t = 0 adds no noise. Step k of DiT's
schedule is at t = (k + 1) / 1000.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, check_choice, check_range, quote
from core.ranges import check_value
from dit.path import STEPS, Path, VariancePreserving
from sample.solvers import Interval, OneStep

VARIANCES = ('learned', 'small')


def discrete_grid(respacing: str) -> np.ndarray:
  """Returns the decreasing times of a respaced schedule, (steps + 1,) float64.

  Args:
    respacing: Text as in DiT's code: '250' for 250 evenly spaced steps out of
      1000, '50,30,20' for the numbers of steps in three parts of equal length,
      or 'ddim50' for 50 steps with a fixed stride.

  Raises:
    InputError: if the text is invalid, or no such schedule exists.
  """
  check_value('sample.respacing', respacing, str)
  is_ddim = respacing.startswith('ddim')
  try:
    counts = [int(part) for part in respacing.removeprefix('ddim').split(',')]
  except ValueError as error:
    raise InputError(
      f"respacing {quote(respacing)}: expected '250', '50,30,20' or 'ddim50'."
    ) from error
  if is_ddim and len(counts) > 1:
    raise InputError(
      f'respacing {quote(respacing)}: a fixed stride takes one number of '
      'steps, such '
      "as 'ddim50'."
    )
  steps = _stride_steps(counts[0]) if is_ddim else _sections(counts)
  return np.append((np.asarray(sorted(steps))[::-1] + 1) / STEPS, 0.0)


def _stride_steps(count: int) -> set[int]:
  for stride in range(1, STEPS + 1):
    if len(range(0, STEPS, stride)) == count:
      return set(range(0, STEPS, stride))
  raise InputError(
    f'respacing ddim{quote(count)}: no stride divides {STEPS} steps '
    f'into {quote(count)}.'
  )


def _sections(counts: list[int]) -> set[int]:
  size, remainder = divmod(STEPS, len(counts))
  start, steps = 0, set()
  for i, count in enumerate(counts):
    length = size + (i < remainder)
    if not 1 <= count <= length:
      raise InputError(
        f'respacing asks for {quote(count)} of the {length} steps of part '
        f'{i + 1}; '
        f'expected 1 to {length}.'
      )
    stride = (length - 1) / (count - 1) if count > 1 else 1
    # As in DiT's code, positions are sums of strides; ties round to even.
    position = 0.0
    for _ in range(count):
      steps.add(start + round(position))
      position += stride
    start += length
  return steps


@dataclasses.dataclass(frozen=True)
class DDIM(OneStep):
  """The solver of Denoising Diffusion Implicit Models; one evaluation per step.

  Attributes:
    path: Path of the velocity; must be variance preserving if eta is positive.
    eta: Amount of noise, from 0 for no noise to 1 for the noise of DDPM.
    clip: Whether the predicted x0 is clipped to [-1, 1].
  """

  path: Path
  eta: float = 0.0
  clip: bool = False

  def __post_init__(self) -> None:
    check_range('ddim eta', self.eta, 0, 1)
    if self.eta:
      _check_path('ddim with eta', self.path)

  @property
  def stochastic(self) -> bool:
    """Returns whether the step adds noise."""
    return self.eta > 0

  @property
  def ddim(self) -> bool:
    """Returns whether the step has neither noise nor clipping."""
    return self.eta == 0 and not self.clip

  def step(self, at: Interval) -> jax.Array:
    """Returns the state at t_next; part of its noise is new if eta > 0."""
    path, t, t_next = self.path, at.t, at.t_next
    x0, eps = _predict(path, at.velocity, at.x, t, self.clip)
    x_next = path.alpha(t_next) * x0
    if not self.eta:
      return x_next + path.sigma(t_next) * eps
    assert isinstance(path, VariancePreserving)
    _, small = variances(path, t, t_next)
    s2 = self.eta**2 * small
    x_next += jnp.sqrt(jnp.square(path.sigma(t_next)) - s2) * eps
    return x_next + jnp.where(t_next > 0, jnp.sqrt(s2), 0) * at.noise


@dataclasses.dataclass(frozen=True)
class DDPM(OneStep):
  """Ancestral sampling; one evaluation per step.

  Attributes:
    path: Variance preserving path of the velocity.
    variance: Variance of a step: 'learned' (from the network) or 'small'.
    clip: Whether the predicted x0 is clipped to [-1, 1].
  """

  path: VariancePreserving
  variance: str = 'learned'
  clip: bool = False
  stochastic = True

  def __post_init__(self) -> None:
    check_choice('ddpm variance', self.variance, VARIANCES)
    _check_path('ddpm', self.path)

  @property
  def learned_variance(self) -> bool:
    """Returns whether the network must predict the variance."""
    return self.variance == 'learned'

  def step(self, at: Interval) -> jax.Array:
    """Returns the posterior mean, with added noise if t_next is positive."""
    path, t, t_next = self.path, at.t, at.t_next
    x0, _ = _predict(path, at.velocity, at.x, t, self.clip)
    beta, small = variances(path, t, t_next)
    mean = posterior_mean(path, x0, at.x, t, t_next)
    # At the step to t = 0, `small` is 0 and has no finite logarithm.
    log_variance = jnp.log(jnp.where(t_next > 0, small, beta))
    if self.learned_variance:
      assert at.first.variance is not None
      f = (at.first.variance + 1) / 2
      log_variance = f * jnp.log(beta) + (1 - f) * log_variance
    scale = jnp.where(t_next > 0, jnp.exp(log_variance / 2), 0)
    return mean + scale * at.noise


def _predict(
  path: Path, v: jax.Array, x: jax.Array, t: jax.Array, clip: bool
) -> tuple[jax.Array, jax.Array]:
  """Returns the predicted x0, clipped if requested, and the matching noise."""
  x0, eps = (path.x0_from_velocity(x, v, t), path.noise_from_velocity(x, v, t))
  if not clip:
    return x0, eps
  x0 = jnp.clip(x0, -1, 1)
  return x0, (x - path.alpha(t) * x0) / path.sigma(t)


def posterior_mean(
  path: VariancePreserving,
  x0: jax.Array,
  x: jax.Array,
  t: jax.Array,
  t_next: jax.Array,
) -> jax.Array:
  """Returns the mean of x at t_next, given x0 and x at t."""
  beta, _ = variances(path, t, t_next)
  noise_t, noise_next = (jnp.square(path.sigma(s)) for s in (t, t_next))
  mean = path.alpha(t_next) * beta / noise_t * x0
  return mean + jnp.sqrt(1 - beta) * noise_next / noise_t * x


def variances(
  path: VariancePreserving, t: jax.Array, t_next: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the posterior variances `beta` and `small` of each step."""
  beta = -jnp.expm1(path.log_alpha2_change(t, t_next))
  ratio = jnp.square(path.sigma(t_next) / path.sigma(t))
  return beta, beta * ratio


def _check_path(name: str, path: Path) -> None:
  if not isinstance(path, VariancePreserving):
    raise InputError(
      f'solver {name} needs a variance preserving path (discrete or vp), not '
      f'{type(path).__name__.lower()}; choose another solver.'
    )
