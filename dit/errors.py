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


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns ' Did you mean ...?' for a near match of `name`, or ''."""
  spelling = {word.lower(): word for word in known}
  match = difflib.SequenceMatcher(b=name.lower())

  def similarity(word: str) -> float:
    match.set_seq1(word)
    return match.ratio()

  # Of several that are as near, the first.
  best = max(spelling, key=similarity, default='')
  near = best and similarity(best) >= 0.5
  return f' Did you mean {spelling[best]!r}?' if near else ''


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
