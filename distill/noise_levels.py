"""Noise levels of DMD's terms, and the trained steps of the student's grid.

The levels are uniform. Their ranges depend on the time t of the student's input
(0 data, 1 noise; Decoupled DMD, arXiv 2511.22677, section 4, reverses time):

  schedule      CA        DM
  shared        (0, 1)    level and noise of CA
  full          (0, 1)    (0, 1)
  constrained   (0, t)    (0, t)
  hybrid        (0, t)    (0, 1)

and are limited to [min_level, max_level]. A shift S maps uniform levels by
s <- S s / (1 + (S - 1) s), within the same bounds.

`distill.level_beta` = (a, b) starts the levels of DM (with `shared`, of both
terms) and of the fake denoiser's loss from Beta(a', b') instead:

  a' = 1 + (a - 1) w,   b' = 1 + (b - 1) w

where w falls from 1 to 0 along half a cosine over `distill.dynamic_updates`
updates of the student. This is the dynamic renoise sampling of DMDR's
repository (vvvvvjdy/dmdr). Its recipe for SiT has (a, b) = (4, 1.5), 10,000
updates and the range (0, 1).
"""

import jax
import jax.numpy as jnp
import numpy as np

from distill.config import DistillConfig


def shifted(s: jax.Array, shift: float) -> jax.Array:
  """Shifts levels; a shift above 1 moves them toward the noise."""
  return shift * s / (1 + (shift - 1) * s)


def remaining(config: DistillConfig, updates: jax.Array | int) -> jax.Array:
  """Returns w, the remaining weight of the dynamic start, from 1 to 0."""
  progress = jnp.minimum(updates / config.dynamic_updates, 1.0)
  return (1 + jnp.cos(jnp.pi * progress)) / 2


def beta_now(
  config: DistillConfig, updates: jax.Array | int
) -> tuple[jax.Array, jax.Array] | None:
  """Returns a' and b' of the levels; None if they are always uniform."""
  if config.level_beta == (1, 1):
    return None
  left = remaining(config, updates)
  a, b = config.level_beta
  return 1 + (a - 1) * left, 1 + (b - 1) * left


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
  # The rounding of the shift must not pass the bound.
  return jnp.minimum(shifted(low + (high - low) * u, config.shift), top)


def bounds(config: DistillConfig, t: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the upper bounds of CA's and DM's levels at the student's time."""
  one = jnp.ones_like(t)
  ca = t if config.schedule in ('constrained', 'hybrid') else one
  return ca, (t if config.schedule == 'constrained' else one)


def trained_steps(branch: str, grid: np.ndarray) -> np.ndarray:
  """Returns the indices of the grid's steps that the branch trains."""
  starts = grid[:-1]
  here = {'': starts > 0, 'low': starts <= 0.5, 'high': starts > 0.5}[branch]
  return np.flatnonzero(here)
