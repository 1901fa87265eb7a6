"""JSON from files that a user may have edited, cut short or replaced."""

import json
from typing import Any

from etils import epath

from core.errors import InputError

# Deeper values would exhaust Python's stack where they are walked.
_MOST_LEVELS = 50


def read_json(path: epath.PathLike, advice: str = '') -> dict[str, Any]:
  """Reads the object that a JSON file holds.

  Args:
    path: File, local or gs://.
    advice: End of the error message, such as '; train again'.

  Raises:
    InputError: if the file cannot be read, or holds anything else.
  """
  path = epath.Path(path)
  try:
    value = parse_json(path.read_bytes())
  except OSError as error:
    raise InputError(
      f'{path} cannot be read ({error.strerror or error}){advice}.'
    ) from error
  except ValueError as error:
    raise InputError(f'{path} is damaged ({error}){advice}.') from error
  if not isinstance(value, dict):
    raise InputError(f'{path} is damaged (it is not a JSON object){advice}.')
  return value


def parse_json(text: str | bytes) -> Any:
  """Parses JSON; integers of more than 20 digits become floats.

  Raises:
    ValueError: for any other text, and for values nested too deeply.
  """
  try:
    value = json.loads(text, parse_int=_integer)
  except RecursionError as error:
    raise ValueError('nested too deeply') from error
  level = [value]
  for _ in range(_MOST_LEVELS):
    level = [child for parent in level for child in _children(parent)]
  if level:
    raise ValueError('nested too deeply')
  return value


def _integer(text: str) -> int | float:
  """Returns a number; Python refuses integers of several thousand digits."""
  return int(text) if len(text) <= 20 else float(text)


def _children(value: Any) -> list[Any]:
  """Returns the values directly inside a value."""
  if isinstance(value, dict):
    return list(value.values())
  return value if isinstance(value, list) else []
