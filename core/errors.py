"""The errors that a command reports in one line, and checks of its input.

This module imports nothing heavy, so the command line can use it before JAX.
"""

import difflib
from collections.abc import Iterable
from typing import Any

_LONGEST = 2000


class InputError(ValueError):
  """An error in the input: what the user asked for cannot work.

  The message is one line: what was wrong, what was expected, what to do.
  The command line prints it and exits with status 2.
  """

  def __init__(self, message: str) -> None:
    """Keeps the message to one line of bounded length, whatever it quotes."""
    line = ''.join(
      letter if letter.isprintable() else ' '
      for letter in trim(message, _LONGEST)
    )
    super().__init__(line)


def trim(text: str, most: int) -> str:
  """Returns the text, or its two ends where it is longer than `most`."""
  if len(text) <= most:
    return text
  end = (most - 5) // 3
  return f'{text[: most - 5 - end]} ... {text[len(text) - end :]}'


def quote(value: Any, most: int = 100) -> str:
  """Returns a value as an error message shows it: in one short line."""
  try:
    text = repr(value)
  except (ValueError, RecursionError):  # thousands of digits, or of brackets
    text = f'a value of type {type(value).__name__} that is too long to show'
  return trim(text, most)


def reason(error: Exception) -> str:
  """Returns an exception in one short line: its type, and what it says."""
  # torch puts advice, some of it dangerous, before what is wrong.
  text = str(error).rpartition('WeightsUnpickler error:')[2]
  text = ' '.join(text.split())[:200]
  return ': '.join(filter(None, (type(error).__name__, text)))


class RunError(RuntimeError):
  """A failure of a command whose input was right, such as a full disk.

  The message is one line: what failed, what is kept, what to do. The command
  line prints it and exits with status 1.
  """


class WriteError(RunError):
  """A file could not be written, such as on a full disk.

  The message says which file, why, and what to do.
  """


def nearest_words(name: str, known: Iterable[str]) -> list[str]:
  """Returns the known word nearest to `name` in a list; [] if none is near."""
  if len(name) > 100:
    return []
  match = difflib.SequenceMatcher(b=name.lower())

  def similarity(word: str) -> float:
    match.set_seq1(word.lower())
    return match.ratio()

  # Ties go to the first word. Short words differ much by one letter.
  best = max(known, key=similarity, default='')
  near = best and similarity(best) >= (0.5 if len(name) <= 3 else 0.6)
  return [best] if near else []


class PrepareError(RunError):
  """The work cannot go on; what is written stays."""


class NonFiniteError(RunError):
  """Training or sampling gave values that are not finite."""


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns ' Did you mean ...?' for a near match of `name`, or ''."""
  return ''.join(f' Did you mean {w!r}?' for w in nearest_words(name, known))


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
  """Raises InputError unless `value` is one of `choices`."""
  choices = list(choices)
  if value not in choices:
    raise InputError(
      f'{key} is {quote(value)}, expected one of {", ".join(choices)}.'
      + nearest(str(value), choices)
    )


def check_range(key: str, value: float, low: float, high: float) -> None:
  """Raises InputError unless low <= value <= high, and finite."""
  if not (low <= value <= high and abs(value) < float('inf')):
    raise InputError(
      f'{key} is {quote(value)}, expected a number from {low} to {high}.'
    )


def shorten(names: Iterable[str], most: int = 5) -> str:
  """Returns the first names, and how many there are if some are left out."""
  names = list(names)
  more = f', ... ({len(names)} in all)' if len(names) > most else ''
  return ', '.join(names[:most]) + more
