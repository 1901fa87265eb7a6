"""Moving averages of the parameters.

Sampling uses the exponential moving average by default:

  ema <- d_n ema + (1 - d_n) params,   d_n = min(decay, (1 + n) / (10 + n))

where n counts the previous steps, including skipped steps. The fraction is a
ramp that lets short runs forget their start. Without the ramp, d_n = decay.

A run can also keep power-function averages, where the weight of step s is
proportional to s^gamma (EDM2: Karras et al. 2024, arXiv 2312.02696, section 3).
For step n = 1, 2, ...

  power <- b_n power + (1 - b_n) params,   b_n = (1 - 1/n)^(gamma + 1)

The width of an average is the standard deviation of s under these weights,
divided by the number of steps so far. The width determines gamma:

  width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))

A linear combination of snapshots approximates the average of any width at any
step (section 3.2). With snapshot profiles p_i(s) and target profile r(s),

  solve A c = b,   A_ij = <p_i, p_j>,   b_i = <p_i, r>

and divide c by its sum. The result is accurate for widths between the smallest
and about twice the largest width of the snapshots.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError
from core.ranges import Decay, Images, Range, check_fields

# The plain mean (gamma = 0) has width 12^-1/2. Width 0.005 averages few steps.
WIDTHS = Range(0.005, 0.28)


@dataclasses.dataclass(frozen=True)
class EMAConfig:
  """Settings of the averages; configs/base.py explains each field."""

  decay: Decay
  ramp: bool
  widths: Annotated[tuple[float, ...], WIDTHS] = ()
  snapshot_images: Images = 0

  def __post_init__(self) -> None:
    check_fields('ema', self)
    if len(set(self.widths)) < len(self.widths):
      raise InputError(f'ema.widths {self.widths} must be distinct.')
    if self.snapshot_images < bool(self.widths):
      raise InputError(
        f'ema.snapshot_images is {self.snapshot_images}, expected at least 1: '
        'averages of ema.widths are read from their snapshots.'
      )


def update(config: EMAConfig, ema: Any, params: Any, step: jax.Array) -> Any:
  """Returns the exponential average after a step; `step` counts from 0."""
  decay = jnp.float32(config.decay)
  if config.ramp:
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return _move(ema, params, 1 - decay)


def update_power(
  config: EMAConfig, power: Sequence[Any], params: Any, step: jax.Array
) -> tuple[Any, ...]:
  """Returns the power-function averages after a step; `step` counts from 0."""
  # In float32, 1 - (1 - 1/n)^(gamma + 1) would lose all digits.
  log = jnp.log1p(-1 / (step + 1).astype(jnp.float32))
  return tuple(
    _move(average, params, -jnp.expm1((gamma_of(width) + 1) * log))
    for width, average in zip(config.widths, power, strict=True)
  )


def _move(ema: Any, params: Any, weight: jax.Array) -> Any:
  return jax.tree.map(lambda e, p: e + weight * (p - e), ema, params)


def gamma_of(width: float) -> float:
  """Returns the exponent gamma >= 0 of an average of the given width."""
  inverse = width**-2
  roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
  return float(roots[np.isreal(roots)].real.max())


def coefficients(
  snapshots: Sequence[tuple[int, float]], step: int, width: float
) -> np.ndarray:
  """Returns coefficients, (n,) float64 with sum 1, that combine snapshots.

  Args:
    snapshots: (step, width) of each of the n snapshots.
    step: Step of the average, at or after the last snapshot.
    width: Relative width of the average.
  """
  steps, gammas = np.asarray(
    [(end, gamma_of(span)) for end, span in snapshots], np.float64
  ).T
  a = _inner(steps[:, None], gammas[:, None], steps, gammas)
  b = _inner(steps, gammas, float(step), gamma_of(width))
  c = np.linalg.solve(a, b)
  return c / c.sum()


def _inner(
  s: np.ndarray,
  gamma: np.ndarray,
  t: np.ndarray | float,
  delta: np.ndarray | float,
) -> np.ndarray:
  """Returns <p, q> for profiles (s, gamma) and (t, delta) (EDM2, eq. 155).

  p(x) = (gamma + 1) x^gamma / s^(gamma + 1) on [0, s], and q likewise.
  """
  exponent = np.where(s < t, delta, -gamma)
  return ((gamma + 1) * (delta + 1) * (s / t) ** exponent) / (
    (gamma + delta + 1) * np.maximum(s, t)
  )
