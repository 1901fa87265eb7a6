"""The moving averages of the parameters.

The average that is sampled from is exponential:

  ema <- d_n ema + (1 - d_n) params,   d_n = min(decay, (1 + n) / (10 + n))

with n the number of steps before this one, skipped ones included: the ramp lets
a short run forget its initialization. Without the ramp, d_n = decay.

Beside it there may be power-function averages (EDM2: Karras et al. 2024,
arXiv 2312.02696, section 3), whose weight of step s grows like s^gamma:

  power <- b_n power + (1 - b_n) params,   b_n = (1 - 1/n)^(gamma + 1)

for step n = 1, 2, ...

A width is the standard deviation of these weights over the training so far,
relative to its length; it fixes gamma:

  width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))

From snapshots of them the average of any width, at any step, is a sum (section
3.2): with profiles p_i(s) of the snapshots and r(s) of what is wanted,

  solve A c = b,   A_ij = <p_i, p_j>,   b_i = <p_i, r>

and c is divided by its sum, as averages have weights of sum 1. That is close
for widths between those of the snapshots, and up to about twice the larger.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError
from core.ranges import Decay, Images, Range, check_fields

# Of gamma = 0, the plain mean, it is 12^-1/2; below, a handful of steps.
WIDTHS = Range(0.005, 0.28)


@dataclasses.dataclass(frozen=True)
class EMAConfig:
  """Averages of the weights; configs/base.py explains each field."""

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
  """The exponential average after `step` steps and this one."""
  decay = jnp.float32(config.decay)
  if config.ramp:
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return _moved(ema, params, 1 - decay)


def update_power(
  config: EMAConfig, power: Sequence[Any], params: Any, step: jax.Array
) -> tuple[Any, ...]:
  """The averages of `config.widths` after `step` steps and this one."""
  # 1 - (1 - 1/n)^(gamma + 1), in which float32 would lose all digits.
  log = jnp.log1p(-1 / (step + 1).astype(jnp.float32))
  return tuple(
    _moved(one, params, -jnp.expm1((gamma_of(width) + 1) * log))
    for width, one in zip(config.widths, power, strict=True)
  )


def _moved(ema: Any, params: Any, weight: jax.Array) -> Any:
  return jax.tree.map(lambda e, p: e + weight * (p - e), ema, params)


def gamma_of(width: float) -> float:
  """The exponent of a width: the positive root of its equation."""
  inverse = width**-2
  roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
  return float(roots[np.isreal(roots)].real.max())


def coefficients(
  snapshots: Sequence[tuple[int, float]], step: int, width: float
) -> np.ndarray:
  """Returns the coefficients of snapshots in the EMA of `width` at `step`.

  Args:
    snapshots: step and width of each, n of them.
    step: not behind the last snapshot.
    width: any.

  Returns:
    (n,) float64, of sum 1.
  """
  steps, gammas = np.asarray(
    [(at, gamma_of(of)) for at, of in snapshots], np.float64
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
  """<p, q> of the profiles (s, gamma) and (t, delta) (EDM2, eq. 155).

  With p(x) = (gamma + 1) x^gamma / s^(gamma + 1) on [0, s].
  """
  exponent = np.where(s < t, delta, -gamma)
  return ((gamma + 1) * (delta + 1) * (s / t) ** exponent) / (
    (gamma + delta + 1) * np.maximum(s, t)
  )
