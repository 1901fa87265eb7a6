"""Grids: the decreasing times, from 1 (noise) to 0 (data), of a trajectory.

With u from 1 to 0 in equal steps, or from 1 to `last` and then to 0 (the last
step, of length `last`, is the one that Euler-Maruyama takes without noise, as
in SiT),

  uniform     t = u
  cosine      t = sin(pi u / 2)                 more steps near the noise
  quadratic   t = u^2                           more steps near the data
  karras      sigma / alpha at t is (s_min^(1/7) + u (s_max^(1/7) -
              s_min^(1/7)))^7, from 80 to 0.002 (arXiv 2206.00364, eq. 5); but
              t = 1 at u = 1 and t = 0 at u = 0

and after that `shift`: t <- shift t / (1 + (shift - 1) t); above 1, more steps
near the noise (SD3); LightningDiT's timestep_shift is 1 / shift. A list of
times such as '1,0.8,0.3,0' is taken as it is.
"""

from typing import Annotated

import numpy as np

from dit.errors import InputError, check_choice, quote
from dit.path import Linear, Path
from dit.ranges import Range, check_value

STEPS = Range(1, 100_000)
SHIFTS = Range(1e-3, 1e3)
LASTS = Range(0, 0.999)
SPACINGS = ('uniform', 'cosine', 'quadratic', 'karras')
_RHO, _SIGMA_MIN, _SIGMA_MAX = 7, 0.002, 80


def make_grid(
  steps: int,
  *,
  shift: float = 1.0,
  last: float = 0.0,
  spacing: str = 'uniform',
  path: Path = Linear(),  # noqa: B008
) -> np.ndarray:
  """The grid, (steps + 1,) float64, first 1, last 0.

  Args:
    steps: how many, unless `spacing` lists the times.
    shift: see the module.
    last: see the module.
    spacing: one of SPACINGS, or times.
    path: says what time has which sigma, for 'karras'.

  Raises:
    InputError: if an argument is out of range.
  """
  if ',' in spacing:
    return _listed(spacing)
  check_choice('sample.spacing', spacing, SPACINGS)
  check_value('sample.steps', steps, Annotated[int, STEPS])
  check_value('sample.shift', shift, Annotated[float, SHIFTS])
  check_value('sample.last', last, Annotated[float, LASTS])
  if last and steps < 2:
    raise InputError(
      f'sample.last is {last}, which is a step of its own, and sample.steps is '
      '1; set one of them right.'
    )
  if last:
    u = np.append(np.linspace(1, last, steps), 0.0)
  else:
    u = np.linspace(1, 0, steps + 1)
  t = _spaced(u, spacing, path)
  return t / (t + (1 - t) / shift)  # so written, 0 and 1 stay exact


def _spaced(u: np.ndarray, spacing: str, path: Path) -> np.ndarray:
  if spacing == 'cosine':
    return np.sin(np.pi / 2 * u)
  if spacing == 'quadratic':
    return u**2
  if spacing == 'karras':
    low, high = (s ** (1 / _RHO) for s in (_SIGMA_MIN, _SIGMA_MAX))
    ratio = (low + u * (high - low)) ** _RHO
    t = np.asarray(path.time_of_ratio(ratio), np.float64)
    return np.where(u == 1, 1.0, np.where(u == 0, 0.0, t))
  return u


def _listed(text: str) -> np.ndarray:
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
