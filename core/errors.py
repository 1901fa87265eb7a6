"""One-line errors and input checks; this module does not import JAX."""

import difflib
from collections.abc import Iterable
from typing import Any

_LONGEST = 2000


class InputError(ValueError):
  """An error in the user's input.

  The message is one line: the problem, the expected input and the remedy.
  The command line prints the message and exits with status 2.
  """

  def __init__(self, message: str) -> None:
    # The message may quote text of any length.
    line = ''.join(
      letter if letter.isprintable() else ' '
      for letter in trim(message, _LONGEST)
    )
    super().__init__(line)


def trim(text: str, most: int) -> str:
  """Shortens a text of more than `most` characters by removing the middle."""
  if len(text) <= most:
    return text
  end = (most - 5) // 3
  return f'{text[: most - 5 - end]} ... {text[len(text) - end :]}'


def quote(value: Any, most: int = 100) -> str:
  """Returns the `repr` of a value, shortened to `most` characters."""
  try:
    text = repr(value)
  except (ValueError, RecursionError):  # `value` has too many digits or levels
    text = f'a value of type {type(value).__name__} that is too long to show'
  return trim(text, most)


def reason(error: Exception) -> str:
  """Returns the type and message of an exception in one short line."""
  # torch puts advice, which can be dangerous, before the actual error.
  text = str(error).rpartition('WeightsUnpickler error:')[2]
  text = ' '.join(text.split())[:200]
  return ': '.join(filter(None, (type(error).__name__, text)))


class RunError(RuntimeError):
  """A failure despite correct input, such as a full disk.

  The message is one line: the failure, the files that remain, and the remedy.
  The command line prints the message and exits with status 1.
  """


class WriteError(RunError):
  """The error for a file that cannot be written, for example on a full disk."""


def nearest_words(name: str, known: Iterable[str]) -> list[str]:
  """Returns a list with the known word nearest to `name`, or an empty list."""
  if len(name) > 100:
    return []
  match = difflib.SequenceMatcher(b=name.lower())

  def similarity(word: str) -> float:
    match.set_seq1(word.lower())
    return match.ratio()

  # One wrong letter lowers the similarity of short words more, so short names
  # have a lower threshold.
  pick = max(known, key=similarity, default='')
  is_near = pick and similarity(pick) >= (0.5 if len(name) <= 3 else 0.6)
  return [pick] if is_near else []


class PrepareError(RunError):
  """A failure that ends the command; files already written are kept."""


class NonFiniteError(RunError):
  """The error for NaN or infinity in training or sampling."""


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns ' Did you mean ...?' with the most similar known word, or ''."""
  return ''.join(f' Did you mean {w!r}?' for w in nearest_words(name, known))


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
  """Raises InputError if `value` is not one of `choices`."""
  choices = list(choices)
  if value not in choices:
    raise InputError(
      f'{key} is {quote(value)}, expected one of {", ".join(choices)}.'
      + nearest(str(value), choices)
    )


def check_range(key: str, value: float, low: float, high: float) -> None:
  """Raises InputError if `value` is not finite or not in [low, high]."""
  if not (low <= value <= high and abs(value) < float('inf')):
    raise InputError(
      f'{key} is {quote(value)}, expected a number from {low} to {high}.'
    )


def shorten(names: Iterable[str], most: int = 5) -> str:
  """Joins at most `most` names; adds the total number if there are more."""
  names = list(names)
  suffix = f', ... ({len(names)} in all)' if len(names) > most else ''
  return ', '.join(names[:most]) + suffix
