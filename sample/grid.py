"""Grids: the decreasing times, from 1 (noise) to 0 (data), of a trajectory.

uniform   t_n = 1 - n / steps
last      t_n uniform from 1 to `last`, then 0: the last step, of length
          `last`, is the one that Euler-Maruyama takes without noise (SiT)
shift     of either: t <- shift t / (1 + (shift - 1) t); above 1, more steps
          near the noise (SD3); LightningDiT's timestep_shift is 1 / shift
"""

import numpy as np

from dit.types import InputError

MAX_STEPS = 100_000


def make_grid(
  steps: int, *, shift: float = 1.0, last: float = 0.0
) -> np.ndarray:
  """The grid, (steps + 1,) float64, first 1, last 0.

  Raises:
    InputError: if an argument is out of range.
  """
  if not 1 <= steps <= MAX_STEPS:
    raise InputError(f'sampler steps is {steps}, expected 1 to {MAX_STEPS:,}.')
  if not 0 < shift < float('inf'):
    raise InputError(f'grid shift is {shift}, expected more than 0.')
  if not 0 <= last < 1 or (last and steps < 2):
    raise InputError(
      f'grid last is {last} with {steps} steps, expected 0 <= last < 1 and, '
      'unless it is 0, at least 2 steps.'
    )
  if last:
    t = np.append(np.linspace(1, last, steps), 0.0)
  else:
    t = np.linspace(1, 0, steps + 1)
  return t / (t + (1 - t) / shift)  # so written, 0 and 1 stay exact
