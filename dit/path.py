"""Paths (interpolants) between data and noise, and conversions along them.

  x_t      = alpha(t) x0 + sigma(t) noise          alpha(0) = 1, sigma(0) = 0
  velocity = d_alpha(t) x0 + d_sigma(t) noise      alpha(1) = 0, sigma(1) = 1
  score    = -noise / sigma(t)

For 'vp' and 'discrete', alpha(1) = 0 and sigma(1) = 1 are approximate. With the
nonzero w(t) = alpha d_sigma - sigma d_alpha,

  x0    = (d_sigma x - sigma velocity) / w
  noise = (alpha velocity - d_alpha x) / w

Times are scalars or (B,), 0 at data and 1 at noise. States are (B, H, W, C).
Sources: SiT (Ma et al. 2024), sections 2.1 and 2.2; for 'vp', Song et al. 2021;
for 'discrete', DDPM (Ho et al. 2020) as in DiT.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import check_choice


def expand(t: jax.Array, like: jax.Array) -> jax.Array:
  """Reshapes times, a scalar or (B,), to broadcast with `like`, (B, ...)."""
  t = jnp.asarray(t)
  return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if t.ndim else t


@dataclasses.dataclass(frozen=True)
class Path(abc.ABC):
  """A path; subclasses define alpha, sigma and their derivatives."""

  @abc.abstractmethod
  def alpha(self, t: jax.Array) -> jax.Array:
    """Weight of the data."""

  @abc.abstractmethod
  def sigma(self, t: jax.Array) -> jax.Array:
    """Weight of the noise."""

  @abc.abstractmethod
  def d_alpha(self, t: jax.Array) -> jax.Array:
    """Derivative of alpha."""

  @abc.abstractmethod
  def d_sigma(self, t: jax.Array) -> jax.Array:
    """Derivative of sigma."""

  @abc.abstractmethod
  def time_of_ratio(self, ratio: jax.Array) -> jax.Array:
    """Returns the time at which sigma / alpha = ratio."""

  def forward_diffusion(self, t: jax.Array) -> jax.Array:
    """Returns g^2 / 2 of the forward SDE of this path; needs alpha(t) > 0.

    The SDE's drift is (d_alpha / alpha) x, so g^2 / 2 = sigma w / alpha.
    """
    return self.sigma(t) * self.w(t) / self.alpha(t)

  def interpolate(
    self, x0: jax.Array, noise: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Returns x_t."""
    t = expand(t, x0)
    return self.alpha(t) * x0 + self.sigma(t) * noise

  def velocity(
    self, x0: jax.Array, noise: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Returns dx_t/dt."""
    t = expand(t, x0)
    return self.d_alpha(t) * x0 + self.d_sigma(t) * noise

  def x0_from_velocity(
    self, x: jax.Array, velocity: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Returns the clean latents that x and velocity imply."""
    t = expand(t, x)
    return (self.d_sigma(t) * x - self.sigma(t) * velocity) / self.w(t)

  def noise_from_velocity(
    self, x: jax.Array, velocity: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Returns the noise that x and velocity imply."""
    t = expand(t, x)
    return (self.alpha(t) * velocity - self.d_alpha(t) * x) / self.w(t)

  def score_from_velocity(
    self, x: jax.Array, velocity: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Returns the gradient of the log density; needs sigma(t) > 0."""
    return -self.noise_from_velocity(x, velocity, t) / self.sigma(expand(t, x))

  def velocity_from_x0(
    self, x: jax.Array, x0: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Inverts `x0_from_velocity`; needs sigma(t) > 0."""
    t = expand(t, x)
    return (self.d_sigma(t) * x - self.w(t) * x0) / self.sigma(t)

  def velocity_from_score(
    self, x: jax.Array, score: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Inverts `score_from_velocity`; needs alpha(t) > 0."""
    return self.velocity_from_noise(x, -self.sigma(expand(t, x)) * score, t)

  def velocity_from_noise(
    self, x: jax.Array, noise: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Inverts `noise_from_velocity`; needs alpha(t) > 0."""
    t = expand(t, x)
    return (self.d_alpha(t) * x + self.w(t) * noise) / self.alpha(t)

  def w(self, t: jax.Array) -> jax.Array:
    """Returns alpha d_sigma - sigma d_alpha, which is never zero."""
    return self.alpha(t) * self.d_sigma(t) - self.sigma(t) * self.d_alpha(t)


@dataclasses.dataclass(frozen=True)
class Linear(Path):
  """alpha = 1 - t, sigma = t (rectified flow); velocity = noise - x0."""

  def alpha(self, t):  # noqa: D102
    return 1 - t

  def sigma(self, t):  # noqa: D102
    return t

  def d_alpha(self, t):  # noqa: D102
    return -jnp.ones_like(t)

  def d_sigma(self, t):  # noqa: D102
    return jnp.ones_like(t)

  def time_of_ratio(self, ratio):  # noqa: D102
    return ratio / (1 + ratio)


@dataclasses.dataclass(frozen=True)
class Cosine(Path):
  """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (SiT's GVP)."""

  def alpha(self, t):  # noqa: D102
    return jnp.cos(jnp.pi / 2 * t)

  def sigma(self, t):  # noqa: D102
    return jnp.sin(jnp.pi / 2 * t)

  def d_alpha(self, t):  # noqa: D102
    return -jnp.pi / 2 * jnp.sin(jnp.pi / 2 * t)

  def d_sigma(self, t):  # noqa: D102
    return jnp.pi / 2 * jnp.cos(jnp.pi / 2 * t)

  def time_of_ratio(self, ratio):  # noqa: D102
    return 2 / jnp.pi * jnp.arctan(ratio)


@dataclasses.dataclass(frozen=True)
class VariancePreserving(Path):
  """A path with alpha^2 + sigma^2 = 1 and polynomial log alpha^2.

  d_sigma and the velocity are infinite at t = 0.

  Attributes:
    coefficients: c_1, c_2, ... in log alpha^2 = c_1 t + c_2 t^2 + ...
  """

  coefficients: tuple[float, ...]

  def log_alpha2(self, t: jax.Array) -> jax.Array:
    """Returns log alpha(t)^2."""
    return t * _polynomial(self.coefficients, t)

  def log_alpha2_change(self, t: jax.Array, t_next: jax.Array) -> jax.Array:
    """Returns log_alpha2(t) - log_alpha2(t_next)."""
    return self.log_alpha2(t) - self.log_alpha2(t_next)

  def alpha(self, t):  # noqa: D102
    return jnp.exp(self.log_alpha2(t) / 2)

  def sigma(self, t):  # noqa: D102
    return jnp.sqrt(-jnp.expm1(self.log_alpha2(t)))

  def d_alpha(self, t):  # noqa: D102
    return self.alpha(t) * self._slope(t) / 2

  def d_sigma(self, t):  # noqa: D102
    return -jnp.square(self.alpha(t)) * self._slope(t) / (2 * self.sigma(t))

  def time_of_ratio(self, ratio):  # noqa: D102
    target = -jnp.log1p(jnp.square(ratio))
    # The initial t is exact for two coefficients. With more coefficients,
    # Newton's method refines it.
    c_1, c_2 = self.coefficients[:2]
    t = (-c_1 - jnp.sqrt(c_1**2 + 4 * c_2 * target)) / (2 * c_2)
    for _ in range(3):
      t = t - (self.log_alpha2(t) - target) / self._slope(t)
    return t

  def _slope(self, t: jax.Array) -> jax.Array:
    """Derivative of log alpha^2."""
    slope = [k * c for k, c in enumerate(self.coefficients, start=1)]
    return _polynomial(slope, t)


def _polynomial(coefficients: Sequence[float], t: jax.Array) -> jax.Array:
  """Returns coefficients[0] + coefficients[1] t + ... in the dtype of t."""
  total = jnp.zeros_like(t)
  for c in reversed(coefficients):
    total = total * t + c
  return total


def vp() -> VariancePreserving:
  """Returns the path with beta(t) linear from 0.1 to 20 (Song et al. 2021)."""
  return VariancePreserving((-0.1, -(20 - 0.1) / 2))


STEPS = 1000  # number of steps in DiT's schedule


def linear_betas() -> np.ndarray:
  """Returns DiT's beta for each of the steps 0..999, in float64."""
  return np.linspace(1e-4, 0.02, STEPS)


@functools.cache
def step_log_alpha2() -> np.ndarray:
  """Returns log alpha^2 at t = k / 1000 for k = 0..1000, float64."""
  return np.append(0.0, np.cumsum(np.log1p(-linear_betas())))


@dataclasses.dataclass(frozen=True)
class Discrete(VariancePreserving):
  """DiT's schedule, smooth between steps; step k is at t = (k + 1) / 1000."""

  def log_alpha2_change(self, t, t_next):  # noqa: D102
    t, t_next = jnp.asarray(t), jnp.asarray(t_next)
    dtype = jnp.result_type(t, t_next)
    # In float32, the difference of the times of two adjacent steps near 1 has a
    # relative error of 1e-4, which the variance of a step would inherit. The
    # change of log alpha^2 between whole steps therefore comes from the float64
    # table. The table is split into a rounded part and a remainder, so changes
    # are as exact as `dtype` allows.
    table = step_log_alpha2()
    part = table.astype(dtype)
    rest = (table - part).astype(dtype)
    k, k_next = (jnp.round(STEPS * s).astype(jnp.int32) for s in (t, t_next))
    change = (jnp.asarray(part)[k] - jnp.asarray(part)[k_next]) + (
      jnp.asarray(rest)[k] - jnp.asarray(rest)[k_next]
    )
    is_whole = _is_step(t) & _is_step(t_next)
    return jnp.where(is_whole, change, super().log_alpha2_change(t, t_next))


def _is_step(t: jax.Array) -> jax.Array:
  """Returns whether t is a whole step of DiT's schedule, up to rounding."""
  step = STEPS * t
  return jnp.abs(step - jnp.round(step)) < 1e-3


@functools.cache
def discrete() -> Discrete:
  """Returns DiT's schedule; a polynomial fits log alpha^2 to within 1e-12."""
  t = np.arange(1, STEPS + 1) / STEPS
  poly = np.polynomial.polynomial.polyfit(t, step_log_alpha2()[1:] / t, 6)
  return Discrete(tuple(poly.tolist()))


PATHS: dict[str, Callable[[], Path]] = {
  'linear': Linear,
  'cosine': Cosine,
  'vp': vp,
  'discrete': discrete,
}


def path_named(name: str) -> Path:
  """Returns the path called `name`; raises InputError if unknown."""
  check_choice('path', name, PATHS)
  return PATHS[name]()
