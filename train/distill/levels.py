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
"""

import jax
import jax.numpy as jnp
import numpy as np

from train.distill.config import DistillConfig


def shifted(s: jax.Array, shift: float) -> jax.Array:
  """More levels near the noise where the shift is above 1."""
  return shift * s / (1 + (shift - 1) * s)


def draw_levels(
  config: DistillConfig, key: jax.Array, count: int, top: jax.Array | float
) -> jax.Array:
  """Levels of noise, (count,), none of them above `top`."""
  low, high = (
    shifted(jnp.minimum(level, top), 1 / config.shift)
    for level in (config.min_level, config.max_level)
  )
  u = jax.random.uniform(key, (count,))
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
