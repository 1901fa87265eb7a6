"""Noise levels of DMD's terms, and the trained steps of the student's grid.

For a student's input at time t, levels are uniform in these ranges. t is 0 for
data and 1 for noise; Decoupled DMD (arXiv 2511.22677, section 4) reverses time.

  schedule      CA        DM
  shared        (0, 1)    same level and noise as CA
  full          (0, 1)    (0, 1)
  constrained   (0, t)    (0, t)
  hybrid        (0, t)    (0, 1)

All ranges are limited to [min_level, max_level]. A shift S then maps levels by
s <- S s / (1 + (S - 1) s); shifted levels keep the same limits.

With `distill.level_beta` = (a, b), Beta(a', b') replaces uniform sampling:

  a' = 1 + (a - 1) w,   b' = 1 + (b - 1) w

This distribution applies to levels of DM, to shared levels of both terms, and
to levels of the fake denoiser's loss. The weight w decreases from 1 to 0 along
half a cosine over `distill.dynamic_updates` updates of the student. The method
is the dynamic renoise sampling of DMDR's repository (vvvvvjdy/dmdr). DMDR's
recipe for SiT has (a, b) = (4, 1.5), 10,000 updates and the range (0, 1).
"""

import jax
import jax.numpy as jnp
import numpy as np

from distill.config import DistillConfig


def shifted(s: jax.Array, shift: float) -> jax.Array:
  """Shifts levels; a shift above 1 moves levels toward 1, which is noise."""
  return shift * s / (1 + (shift - 1) * s)


def remaining(config: DistillConfig, updates: jax.Array | int) -> jax.Array:
  """Returns the weight w, which decreases from 1 to 0 along half a cosine."""
  progress = jnp.minimum(updates / config.dynamic_updates, 1.0)
  return (1 + jnp.cos(jnp.pi * progress)) / 2


def beta_now(
  config: DistillConfig, updates: jax.Array | int
) -> tuple[jax.Array, jax.Array] | None:
  """Returns a' and b' of the Beta distribution; None for uniform levels."""
  if config.level_beta == (1, 1):
    return None
  rest = remaining(config, updates)
  a, b = config.level_beta
  return 1 + (a - 1) * rest, 1 + (b - 1) * rest


def draw_levels(
  config: DistillConfig,
  key: jax.Array,
  count: int,
  top: jax.Array | float,
  beta: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
  """Samples noise levels, (count,), up to `top`.

  Args:
    config: Section `distill`, with the range and the shift.
    key: Random key.
    count: Number of levels.
    top: Upper bound, scalar or (count,).
    beta: Parameters of a Beta distribution over the range; None for uniform.
  """
  low, high = (
    shifted(jnp.minimum(level, top), 1 / config.shift)
    for level in (config.min_level, config.max_level)
  )
  if beta is None:
    u = jax.random.uniform(key, (count,))
  else:
    u = jax.random.beta(key, *beta, (count,))
  # After rounding, a shifted level could exceed its upper bound.
  return jnp.minimum(shifted(low + (high - low) * u, config.shift), top)


def bounds(config: DistillConfig, t: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the upper bounds of CA's and DM's levels for an input at time t."""
  ones = jnp.ones_like(t)
  ca = t if config.schedule in ('constrained', 'hybrid') else ones
  return ca, (t if config.schedule == 'constrained' else ones)


def trained_steps(branch: str, grid: np.ndarray) -> np.ndarray:
  """Returns the indices of the grid steps on which a branch is trained."""
  starts = grid[:-1]
  mask = {'': starts > 0, 'low': starts <= 0.5, 'high': starts > 0.5}[branch]
  return np.flatnonzero(mask)
