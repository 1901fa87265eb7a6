"""Conversion of class names and numbers to labels.

A word matches a class name exactly, or else without case and underscores, or
else by the part before the name's first comma, as in ImageNet's 'tench, Tinca
tinca'. A word without a match must be a class number, counted from 0.
"""

import collections
from collections.abc import Callable, Mapping, Sequence

from core.errors import InputError, nearest

_LONGEST = 24  # maximum length of a name in a picture


def find_classes(
  text: str, num_classes: int, names: Sequence[str] = (), others: str = ''
) -> list[int]:
  """Returns the class indices for text such as 'bird,3'.

  Args:
    text: Names and numbers, separated by commas; a name may contain commas.
    num_classes: Number of classes.
    names: Names of the classes; () if unknown.
    others: Further words that the error message lists as valid.

  Raises:
    InputError: A word matches no class, or several classes.
  """
  words, classes = text.split(','), []
  rules: tuple[Callable[[str], str], ...] = (str, _simplify, _key)
  tables = [_spellings(rule, names) for rule in rules]
  limit = 1 + max((name.count(',') for name in names), default=0)
  head = f'labels {text!r}' if len(text) < 80 else 'labels'
  while words:
    count, matches = _longest_name(words, tables, limit)
    word = ','.join(words[:count]).strip()
    del words[:count]
    if len(matches) > 1:
      numbers = ' and '.join(map(str, matches[:5]))
      raise InputError(
        f'{head}: {word!r} names classes {numbers}; give a number, or the '
        'whole name.'
      )
    try:
      number = matches[0] if matches else int(word)
    except ValueError as error:
      raise InputError(
        f'{head}: expected {others}classes by name, or by number between 0 and '
        f'{num_classes - 1}, not {word[:40]!r}.'
        + nearest(word[:40], (*map(_key, names), *others.split(', ')))
      ) from error
    if not 0 <= number < num_classes:
      raise InputError(f'{head}: classes lie between 0 and {num_classes - 1}.')
    classes.append(number)
  return classes


def named(plan: str, names: Mapping[str, str]) -> str:
  """Replaces class numbers in a plan such as '3,5' by the known names."""
  return ', '.join(
    class_name(0, [names[word]]) if word in names else word
    for word in plan.split(',')
  )


def class_name(label: int, names: Sequence[str] = ()) -> str:
  """Returns the short name of a class for pictures and captions."""
  name = _first_name(names[label]) if label < len(names) else ''
  if not name or name.isdecimal():
    return f'class {name or label}'
  return name if len(name) <= _LONGEST else f'{name[: _LONGEST - 3]}...'


def _longest_name(
  words: Sequence[str], tables: Sequence[Mapping[str, Sequence[int]]], top: int
) -> tuple[int, Sequence[int]]:
  """Returns the number of words in the longest match, and its classes."""
  for count in range(min(len(words), top), 0, -1):
    word = ','.join(words[:count]).strip()
    for spelling, spellings in zip(
      (word, _simplify(word), _simplify(word)), tables, strict=True
    ):
      if spelling in spellings:
        return count, spellings[spelling]
  return 1, []


def _spellings(
  rule: Callable[[str], str], names: Sequence[str]
) -> dict[str, list[int]]:
  """Returns the indices of the classes that `rule` maps to each spelling."""
  classes = collections.defaultdict(list)
  for number, name in enumerate(names):
    classes[rule(name)].append(number)
  return dict(classes)


def _simplify(name: str) -> str:
  return ' '.join(name.replace('_', ' ').casefold().split())


def _first_name(name: str) -> str:
  return name.partition(',')[0].strip()


def _key(name: str) -> str:
  return _simplify(_first_name(name))
