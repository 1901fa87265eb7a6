"""A parser of options, as in the solver 'heun:final_step=heun'."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.errors import InputError, nearest, quote
from core.renamed_keys import RENAMED_OPTIONS

_READERS: dict[type, Callable[[str], Any]] = {
  bool: {'true': True, 'false': False}.__getitem__,
  type(None): float,
  tuple: lambda text: tuple(map(int, text.split('+'))),
}
_EXPECTED = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a number',
  type(None): 'a number',
  tuple: 'blocks such as 7+8',
}


def read_options(
  owner: str,
  where: str,
  assignments: Sequence[str],
  defaults: Mapping[str, Any],
) -> dict[str, Any]:
  """Parses options; each value has the type of its default (None: a number).

  Args:
    owner: Name of the options' owner, such as 'solver heun'.
    where: Start of error messages; it contains the text with the options.
    assignments: Given options, such as 'final_step=heun'.
    defaults: Default of every option.

  Raises:
    InputError: if an option is unknown or a value is invalid.
  """
  options: dict[str, Any] = {}
  for assignment in assignments:
    name, _, text = assignment.partition('=')
    if name not in defaults:
      hint = nearest(RENAMED_OPTIONS.get(name, name), defaults)
      raise InputError(
        f'{owner} has no option {quote(name)}; it has '
        f'{", ".join(defaults) or "none"}.{hint}'
      )
    if name in options:
      raise InputError(f'{where} sets {name} twice.')
    kind = type(defaults[name])
    try:
      options[name] = _READERS.get(kind, kind)(text)
    except (ValueError, KeyError) as error:
      raise InputError(
        f'{where}: {name} is {quote(text)}, expected {_EXPECTED[kind]}.'
      ) from error
  return options
