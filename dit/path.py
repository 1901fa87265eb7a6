"""Paths (interpolants) between data and noise, and conversions along them.

  x_t      = alpha(t) x0 + sigma(t) noise          alpha(0) = sigma(1) = 1
  velocity = d_alpha(t) x0 + d_sigma(t) noise      alpha(1) = sigma(0) = 0
  score    = -noise / sigma(t)

With w(t) = alpha d_sigma - sigma d_alpha (never zero on [0, 1]):

  x0    = (d_sigma x - sigma velocity) / w
  noise = (alpha velocity - d_alpha x) / w

Times are scalars or (B,); states (B, H, W, C). `t` is 0 at data, 1 at noise.
Source: SiT (Ma et al. 2024), sections 2.1 and 2.2.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from dit.config import check_choice


def expand(t: jax.Array, like: jax.Array) -> jax.Array:
  """A scalar or (B,) shaped to multiply `like` (B, ...)."""
  t = jnp.asarray(t)
  return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if t.ndim else t


@dataclasses.dataclass(frozen=True)
class Path(abc.ABC):
  """A path; subclasses give alpha, sigma and their derivatives."""

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
    """The time at which sigma / alpha = ratio."""

  def interpolate(self, x0, noise, t) -> jax.Array:
    """x_t."""
    t = expand(t, x0)
    return self.alpha(t) * x0 + self.sigma(t) * noise

  def velocity(self, x0, noise, t) -> jax.Array:
    """Derivative of x_t."""
    t = expand(t, x0)
    return self.d_alpha(t) * x0 + self.d_sigma(t) * noise

  def x0_from_velocity(self, x, velocity, t) -> jax.Array:
    """Clean latents that x and velocity imply."""
    t = expand(t, x)
    return (self.d_sigma(t) * x - self.sigma(t) * velocity) / self._w(t)

  def noise_from_velocity(self, x, velocity, t) -> jax.Array:
    """Noise that x and velocity imply."""
    t = expand(t, x)
    return (self.alpha(t) * velocity - self.d_alpha(t) * x) / self._w(t)

  def score_from_velocity(self, x, velocity, t) -> jax.Array:
    """Gradient of the log density; needs sigma(t) > 0."""
    return -self.noise_from_velocity(x, velocity, t) / self.sigma(expand(t, x))

  def velocity_from_x0(self, x, x0, t) -> jax.Array:
    """The inverse of `x0_from_velocity`; needs sigma(t) > 0."""
    t = expand(t, x)
    return (self.d_sigma(t) * x - self._w(t) * x0) / self.sigma(t)

  def velocity_from_noise(self, x, noise, t) -> jax.Array:
    """The inverse of `noise_from_velocity`; needs alpha(t) > 0."""
    t = expand(t, x)
    return (self.d_alpha(t) * x + self._w(t) * noise) / self.alpha(t)

  def velocity_from_score(self, x, score, t) -> jax.Array:
    """The inverse of `score_from_velocity`; needs alpha(t), sigma(t) > 0."""
    return self.velocity_from_noise(x, -self.sigma(expand(t, x)) * score, t)

  def _w(self, t: jax.Array) -> jax.Array:
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


PATHS = {'linear': Linear(), 'cosine': Cosine()}


def path_named(name: str) -> Path:
  """The path called `name`; InputError names the known ones."""
  check_choice('path', name, PATHS)
  return PATHS[name]
