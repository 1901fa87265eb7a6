"""Solvers as text: 'heun:final_step=heun', 'euler_maruyama:diffusion=sigma'.

The text is the solver's name, followed by `:option=value` for each option.
"""

import dataclasses
from typing import Any

from core.errors import check_choice, quote
from core.options import read_options
from core.ranges import check_value
from dit.path import Path, path_named
from sample.adaptive import Dopri5
from sample.ddpm import DDIM, DDPM
from sample.solvers import (
  RK4,
  DPMSolver,
  Euler,
  EulerMaruyama,
  Heun,
  HeunMaruyama,
  Midpoint,
  Renoise,
  Solver,
)

SOLVERS: dict[str, type[Solver | Dopri5]] = {
  'euler': Euler,
  'heun': Heun,
  'midpoint': Midpoint,
  'rk4': RK4,
  'dpm++': DPMSolver,
  'dopri5': Dopri5,
  'euler_maruyama': EulerMaruyama,
  'heun_maruyama': HeunMaruyama,
  'ddim': DDIM,
  'ddpm': DDPM,
  'renoise': Renoise,
}


def make_solver(text: str, path: Path) -> Solver | Dopri5:
  """Returns the solver that the text describes, for a path.

  Raises:
    InputError: A solver or option is unknown, or the path is unsuitable.
  """
  check_value('sample.solver', text, str)
  name, *assignments = text.split(':')
  check_choice('sample.solver', name, SOLVERS)
  kind = SOLVERS[name]
  defaults = {f.name: f.default for f in dataclasses.fields(kind)}
  kwargs: dict[str, Any] = {'path': path} if defaults.pop('path', None) else {}
  source = f'sample.solver {quote(text)}'
  options = read_options(f'solver {name}', source, assignments, defaults)
  return kind(**kwargs, **options)


def check_solver(text: str) -> None:
  """Raises InputError if the text does not describe a solver."""
  make_solver(text, path_named('discrete'))
