"""Solvers as text: 'heun:final_step=heun', 'euler_maruyama:diffusion=sigma'.

A name, then `:option=value` for each of the solver's own options.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from core.errors import InputError, check_choice, nearest, quote
from core.ranges import check_value
from core.renamed_keys import RENAMED_OPTIONS
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
  """The solver that the text describes.

  Args:
    text: as in the module's examples.
    path: that the velocity belongs to; some solvers need it.

  Raises:
    InputError: for an unknown solver or option, naming the right ones, or a
      solver that the path does not suit.
  """
  check_value('sample.solver', text, str)
  name, *assignments = text.split(':')
  check_choice('sample.solver', name, SOLVERS)
  kind = SOLVERS[name]
  fields = {field.name: field for field in dataclasses.fields(kind)}
  given: dict[str, Any] = {'path': path} if fields.pop('path', None) else {}
  for assignment in assignments:
    option, _, value = assignment.partition('=')
    if option not in fields:
      near = nearest(RENAMED_OPTIONS.get(option, option), fields)
      raise InputError(
        f'solver {name} has no option {quote(option)}; it has '
        f'{", ".join(fields) or "none"}.{near}'
      )
    if option in given:
      raise InputError(f'sample.solver {quote(text)} sets {option} twice.')
    given[option] = _read(text, option, value, type(fields[option].default))
  return kind(**given)


def check_solver(text: str) -> None:
  """Raises InputError if no path could make the text a solver."""
  make_solver(text, path_named('discrete'))


def _read(text: str, option: str, value: str, kind: type) -> str | float | bool:
  """The value of an option, of the type of its default."""
  readers: dict[type, Callable[[str], str | float | bool]] = {
    str: str,
    float: float,
    int: int,
    bool: {'true': True, 'false': False}.__getitem__,
  }
  try:
    return readers[kind](value)
  except (ValueError, KeyError) as error:
    expected = {bool: 'true or false', int: 'a whole number'}.get(
      kind, 'a number'
    )
    raise InputError(
      f'sample.solver {quote(text)}: {option} is {quote(value)}, expected '
      f'{expected}.'
    ) from error
