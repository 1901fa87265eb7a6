"""Grids: the decreasing times of a trajectory, from the noise to t = 0 (data).

A grid starts at t = 1, except for `edm`. In the formulas, u decreases from 1 to
0 in equal steps. If `last_step_size` is positive, u decreases to this value in
equal steps, and then to 0 in one step. By default, Euler-Maruyama takes the
step to 0 without noise, as in SiT.

  uniform     t = u
  cosine      t = sin(pi u / 2)                 more steps near the noise
  quadratic   t = u^2                           more steps near the data
  karras      sigma / alpha at t is r(u), but t = 1 at u = 1, and t = 0 at u = 0

where r(u) = (s_min^(1/7) + u (s_max^(1/7) - s_min^(1/7)))^7 decreases from 80
to 0.002. `karras` is *ours*: t = 1 and t = 0 replace the ends of r, so with 18
steps, the last level above 0 is 0.0070. EDM's grid (arXiv 2206.00364, eq. 5) is

  edm         sigma / alpha at t_i is r(1 - i / (steps - 1)), then t = 0

`edm` starts at level 80 (t = 80 / 81 on the linear path), reaches 0.002 before
the last step, and ignores `last_step_size`. If a grid starts at t < 1, the
trajectory starts from noise of standard deviation sigma(t), as in EDM. On
variance preserving paths, the trajectory starts from noise of unit variance.

`shift` then maps t to shift t / (1 + (shift - 1) t). A shift above 1 moves
steps toward the noise (SD3). LightningDiT's timestep_shift is 1 / shift. A list
of times such as '1,0.8,0.3,0' is used without a shift.
"""

from typing import Annotated

import numpy as np

from core.errors import InputError, check_choice, quote
from core.ranges import Range, check_value
from dit.path import Linear, Path

STEPS = Range(1, 100_000)
SHIFTS = Range(1e-3, 1e3)
LAST_STEP_SIZES = Range(0, 0.999)
SPACINGS = ('uniform', 'cosine', 'quadratic', 'karras', 'edm')
_RHO, _SIGMA_MIN, _SIGMA_MAX = 7, 0.002, 80


def make_grid(
  steps: int,
  *,
  shift: float = 1.0,
  last_step_size: float = 0.0,
  spacing: str = 'uniform',
  path: Path = Linear(),  # noqa: B008
) -> np.ndarray:
  """Returns the grid, (steps + 1,) float64; see the module docstring.

  Args:
    steps: Number of steps; ignored if `spacing` lists the times.
    shift: Values above 1 move steps toward noise, below 1 toward data.
    last_step_size: Length of a last step to t = 0; 0 for none.
    spacing: One of SPACINGS, or a list of times.
    path: Path that maps noise levels to times, for 'karras' and 'edm'.

  Raises:
    InputError: If an argument is out of range.
  """
  if ',' in spacing:
    return _parse_list(spacing)
  check_choice('sample.spacing', spacing, SPACINGS)
  check_value('sample.steps', steps, Annotated[int, STEPS])
  check_value('sample.shift', shift, Annotated[float, SHIFTS])
  check_value(
    'sample.last_step_size', last_step_size, Annotated[float, LAST_STEP_SIZES]
  )
  if last_step_size and steps < 2 and spacing != 'edm':
    raise InputError(
      f'sample.last_step_size is {last_step_size}, which adds a last step, '
      'but sample.steps is 1; raise sample.steps, or set '
      'sample.last_step_size=0.'
    )
  if spacing == 'edm':
    t = np.append(_time_of_level(np.linspace(1, 0, steps), path), 0.0)
    return t / (t + (1 - t) / shift)
  if last_step_size:
    u = np.append(np.linspace(1, last_step_size, steps), 0.0)
  else:
    u = np.linspace(1, 0, steps + 1)
  t = _space(u, spacing, path)
  return t / (t + (1 - t) / shift)  # this form is exact at 0 and 1


def _space(u: np.ndarray, spacing: str, path: Path) -> np.ndarray:
  if spacing == 'cosine':
    return np.sin(np.pi / 2 * u)
  if spacing == 'quadratic':
    return u**2
  if spacing == 'karras':
    t = _time_of_level(u, path)
    return np.where(u == 1, 1.0, np.where(u == 0, 0.0, t))
  return u


def _time_of_level(u: np.ndarray, path: Path) -> np.ndarray:
  """Returns the times at which sigma / alpha equals the level r(u)."""
  low, high = (s ** (1 / _RHO) for s in (_SIGMA_MIN, _SIGMA_MAX))
  ratio = (low + u * (high - low)) ** _RHO
  return np.asarray(path.time_of_ratio(ratio), np.float64)


def _parse_list(text: str) -> np.ndarray:
  check_value('sample.spacing', text, str)
  try:
    t = np.asarray([float(part) for part in text.split(',')])
  except ValueError:
    t = np.zeros(1)
  if t[0] != 1 or t[-1] != 0 or not (np.diff(np.float32(t)) < 0).all():
    raise InputError(
      f'sample.spacing {quote(text)}: expected decreasing times from 1 to 0, '
      f"such as '1,0.8,0.3,0', or one of {', '.join(SPACINGS)}."
    )
  return t
