"""The error for bad input, and the checks that raise it.

This module imports nothing heavy, so the command line can use it before JAX.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
  """What the user asked for cannot work.

  The message is one line: what was wrong, what was expected, what to do.
  The command line prints it and exits with status 2.
  """


class RunError(RuntimeError):
  """The work cannot go on although the input was right, as on a full disk.

  The message is one line: what failed, what is kept, what to do. The command
  line prints it and exits with status 1.
  """


def nearest_words(name: str, known: Iterable[str]) -> list[str]:
  """Returns the known word that `name` is near to, or an empty list."""
  match = difflib.SequenceMatcher(b=name.lower())

  def similarity(word: str) -> float:
    match.set_seq1(word.lower())
    return match.ratio()

  # Among equals, the first. A short word differs much by one letter.
  best = max(known, key=similarity, default='')
  near = best and similarity(best) >= (0.5 if len(name) <= 3 else 0.6)
  return [best] if near else []


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns ' Did you mean ...?' for a near match of `name`, or ''."""
  return ''.join(f' Did you mean {w!r}?' for w in nearest_words(name, known))


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
  """Raises InputError unless `value` is one of `choices`."""
  choices = list(choices)
  if value not in choices:
    raise InputError(
      f'{key} is {value!r}, expected one of {", ".join(choices)}.'
      + nearest(str(value), choices)
    )


def check_range(key: str, value: float, low: float, high: float) -> None:
  """Raises InputError unless low <= value <= high, and finite."""
  if not (low <= value <= high and abs(value) < float('inf')):
    raise InputError(
      f'{key} is {value}, expected a number from {low} to {high}.'
    )


def shorten(names: Iterable[str], most: int = 5) -> str:
  """Returns the first names, and how many there are if some are left out."""
  names = list(names)
  more = f', ... ({len(names)} in all)' if len(names) > most else ''
  return ', '.join(names[:most]) + more
