"""Noise levels of the terms of DMD, and the grid that the student takes.

With t the time of the student's input (0 data, 1 noise), the levels of the two
terms are uniform (Decoupled DMD, arXiv 2511.22677, section 4):

  schedule      CA        DM
  shared        (0, 1)    that of CA, and its noise
  full          (0, 1)    (0, 1)
  constrained   (0, t)    (0, t)
  hybrid        (0, t)    (0, 1)

within [min_level, max_level]. The paper counts time the other way. With a shift
S they are uniform before s <- S s / (1 + (S - 1) s), and so is their bound t.

With `distill.level_beta` = (a, b) the levels of DM (with `shared` those of both
terms) and of the fake denoiser's loss are not uniform at first, but from
Beta(a', b'), where with w falling from 1 to 0 by half a cosine over
`distill.dynamic_updates` updates of the student

  a' = 1 + (a - 1) w,   b' = 1 + (b - 1) w

This is the dynamic renoise sampling of DMDR's repository (vvvvvjdy/dmdr), whose
recipe for SiT has (a, b) = (4, 1.5), 10,000 updates and the range (0, 1).
"""

import jax
import jax.numpy as jnp
import numpy as np

from distill.config import DistillConfig


def shifted(s: jax.Array, shift: float) -> jax.Array:
  """More levels near the noise where the shift is above 1."""
  return shift * s / (1 + (shift - 1) * s)


def remaining(config: DistillConfig, updates: jax.Array | int) -> jax.Array:
  """Returns w, the remaining weight of the dynamic start, from 1 to 0."""
  progress = jnp.minimum(updates / config.dynamic_updates, 1.0)
  return (1 + jnp.cos(jnp.pi * progress)) / 2


def beta_now(
  config: DistillConfig, updates: jax.Array | int
) -> tuple[jax.Array, jax.Array] | None:
  """Returns a' and b' of the levels; None where they are always uniform."""
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
  """Draws levels of noise, (count,), none of them above `top`.

  Args:
    config: section `distill`, with the range and the shift.
    key: random key.
    count: number of levels.
    top: bound, scalar or (count,).
    beta: parameters of a Beta distribution over the range; None for uniform.
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
  """The highest levels of CA and of DM for the student's time t."""
  one = jnp.ones_like(t)
  ca = t if config.schedule in ('constrained', 'hybrid') else one
  return ca, (t if config.schedule == 'constrained' else one)


def trained_steps(branch: str, grid: np.ndarray) -> np.ndarray:
  """Numbers of the grid's steps that are trained; see `DistillConfig`."""
  starts = grid[:-1]
  here = {'': starts > 0, 'low': starts <= 0.5, 'high': starts > 0.5}[branch]
  return np.flatnonzero(here)
