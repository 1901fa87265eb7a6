"""Allowed values of settings, declared in the type of each field.

  @dataclasses.dataclass(frozen=True)
  class TrainConfig:
    batch_size: Annotated[int, Range(1, 2**20)]
    init_from: Annotated[str, FilePath()] = ''

    def __post_init__(self) -> None:
      check_fields('train', self)

A tuple's rule applies to each entry. Numbers must be finite. The constants
below limit the length of texts and tuples.
"""

import dataclasses
import functools
import numbers
import os
import re
import typing
from collections.abc import Collection
from typing import Annotated, Any

from core.errors import InputError, nearest, quote

# Python's parsers fail on very long texts. No valid text, such as a guidance
# setting or a path, has more letters.
MOST_LETTERS = 3000
MOST_ENTRIES = 1000
# This limit exceeds any run. float64 represents all integers up to the limit.
MOST_IMAGES = 10**15
# The product of two numbers up to this limit is finite in float32.
LARGE = 1e18
# URL schemes of runs (_STORES) and of published files (_WEB).
_STORES = ('gs', 's3', 'az')
_WEB = ('hf', 'https')

_NOUNS = {
  int: 'an integer',
  float: 'a number',
  str: f'a text of at most {MOST_LETTERS:,} letters',
  bool: 'true or false',
}


@dataclasses.dataclass(frozen=True)
class Range:
  """Numbers from `low` to `high`, including these limits."""

  low: float
  high: float

  def allows(self, value: float) -> bool:
    """Returns whether the range contains a number; False for NaN."""
    return self.low <= value <= self.high

  def describe(self, kind: type) -> str:
    """Returns a description for error messages."""
    return f'{_NOUNS[kind]} from {_number(self.low)} to {_number(self.high)}'


@dataclasses.dataclass(frozen=True)
class Choice:
  """Names from a fixed set."""

  names: Collection[str]

  def allows(self, value: str) -> bool:
    """Returns whether a text is one of the names."""
    return value in self.names

  def describe(self, kind: type) -> str:
    """Returns a description for error messages."""
    del kind
    return f'one of {", ".join(self.names)}'


@dataclasses.dataclass(frozen=True)
class FilePath:
  """File paths, or lists of paths separated by commas.

  Attributes:
    web: Whether https:// and hf:// are allowed too, alone or after 'NAME:'.
  """

  web: bool = False

  def allows(self, value: str) -> bool:
    """Returns whether a file system accepts the text as a path."""
    try:
      data = os.fsencode(value)
    except UnicodeEncodeError:
      return False
    if b'\0' in data:
      return False
    names = data.replace(b',', b'/').split(b'/')
    fits = max(map(len, names)) <= 255
    # `value` starts with ~NAME, but no user is called NAME.
    unknown = value.startswith('~') and os.path.expanduser(value) == value
    return fits and not unknown and self._knows_store(value)

  def _knows_store(self, value: str) -> bool:
    """Returns False if the text has an unknown URL scheme before '://'."""
    store, separator, _ = value.partition('://')
    if self.web:
      store = re.split('[:,]', store)[-1]
    return not separator or store in (*_STORES, *_WEB * self.web)

  def describe(self, kind: type) -> str:
    """Returns a description for error messages."""
    del kind
    stores = ', '.join(f'{store}://' for store in (*_STORES, *_WEB * self.web))
    return f'a path here or of {stores}, each name in it of at most 255 bytes'


@dataclasses.dataclass(frozen=True)
class FolderName:
  """Names of folders inside another folder.

  Attributes:
    nested: Whether the name may have parts, such as mnist/3.0.1.
    empty: Whether '' is allowed.
  """

  nested: bool = False
  empty: bool = False

  def allows(self, value: str) -> bool:
    """Returns whether a text names a folder inside another folder."""
    if not value:
      return self.empty
    parts = value.split('/') if self.nested else [value]
    fits = not any(part in ('', '.', '..') or '/' in part for part in parts)
    return fits and FilePath().allows(value) and len(value) <= 255

  def describe(self, kind: type) -> str:
    """Returns a description for error messages."""
    del kind
    return (
      'the name of a folder inside another, not a path out of it'
      if self.nested
      else 'the name of a folder, without /, not . or ..'
    )


Rule = Range | Choice | FilePath | FolderName

Seed = Annotated[int, Range(0, 2**32 - 1)]
Images = Annotated[int, Range(0, MOST_IMAGES)]
# Number of images to sample or measure; hosts allocate tables of this length.
Count = Annotated[int, Range(1, 10**8)]
# The upper limit exceeds every batch that fits on devices.
BatchSize = Annotated[int, Range(1, 2**20)]
Fraction = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, LARGE)]
LearningRate = Annotated[float, Range(0, 1e30)]
# The upper limit is less than 1 even in float32.
Decay = Annotated[float, Range(0, 0.9999999)]
PathText = Annotated[str, FilePath()]
WebText = Annotated[str, FilePath(web=True)]


def check_fields(section: str, config: Any) -> None:
  """Checks the fields of a dataclass, except nested dataclasses.

  `section` is the prefix of the fields' keys; '' for none, '--' for flags.

  Raises:
    InputError: if a field has a value that is not allowed; names the first.
  """
  for name, declaration in declarations(config.__class__).items():
    key = f'{section}.{name}'.removeprefix('.').replace('--.', '--')
    check_value(key, getattr(config, name), declaration)


def check_value(key: str, value: Any, declaration: Any) -> None:
  """Checks a value against a type such as Annotated[int, Range(1, 9)].

  `key` names the value in messages, such as 'train.images' or '--num'.

  Raises:
    InputError: if the value is not allowed.
  """
  kind, rule = parts_of(declaration)
  if typing.get_origin(kind) is not tuple:
    _check_one(f'{key} is', value, kind, rule)
    return
  if not isinstance(value, tuple) or len(value) > MOST_ENTRIES:
    raise InputError(
      f'{key} is {quote(value)}, expected at most {MOST_ENTRIES:,} values, '
      'such as (1, 2).'
    )
  for entry in value:
    _check_one(f'{key} has', entry, typing.get_args(kind)[0], rule)


def parts_of(declaration: Any) -> tuple[Any, Rule | None]:
  """Splits a declaration into a plain type and a rule; the rule may be None."""
  if typing.get_origin(declaration) is Annotated:
    kind, rule = typing.get_args(declaration)
    return kind, rule
  return declaration, None


@functools.cache
def declarations(kind: Any) -> dict[str, Any]:
  """Maps a dataclass's fields, except nested dataclasses, to declared types."""
  hints = typing.get_type_hints(kind, include_extras=True)
  return {
    field.name: hints[field.name]
    for field in dataclasses.fields(kind)
    if not dataclasses.is_dataclass(hints[field.name])
  }


def _check_one(start: str, value: Any, kind: type, rule: Rule | None) -> None:
  fits = not isinstance(value, str) or len(value) <= MOST_LETTERS
  if _is(value, kind) and fits and (rule is None or rule.allows(value)):
    return
  expected = _NOUNS[kind] if rule is None else rule.describe(kind)
  hint = nearest(str(value), rule.names) if isinstance(rule, Choice) else ''
  raise InputError(f'{start} {quote(value)}, expected {expected}.{hint}')


def _is(value: Any, kind: type) -> bool:
  """Returns whether `value` has type `kind`; a Boolean is not a number."""
  if isinstance(value, bool) or kind is bool:
    return isinstance(value, bool) and kind is bool
  types = {int: numbers.Integral, float: numbers.Real}
  return isinstance(value, types.get(kind, kind))


def _number(value: float) -> str:
  return f'{value:,}' if isinstance(value, int) else f'{value:g}'
