"""Loads config files and applies command-line assignments to them."""

import ast
import inspect
import math
import pathlib
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import ml_collections

from core import suggestions
from core.errors import InputError, nearest, quote
from core.nested import flatten
from core.python_files import load_function
from core.ranges import MOST_LETTERS


def load_config(spec: str) -> ml_collections.ConfigDict:
  """Returns the config that the function `get_config` of a Python file builds.

  Args:
    spec: 'PATH.py' or 'PATH.py:ARGUMENT'. A relative path refers to this
      project if the file exists there, unless the path starts with a dot.
  """
  name, _, argument = spec.partition(':')
  root = pathlib.Path(__file__).parents[1]
  path = root / name  # an absolute path replaces the root
  if name.startswith('.') or not path.is_file():
    path = pathlib.Path(name)
  if path.suffix != '.py' or not path.is_file():
    files = (root / 'configs').rglob('[!_]*.py')
    paths = sorted(str(file.relative_to(root)) for file in files)
    raise InputError(
      f'config file {name!r} not found; there are '
      f'{", ".join(paths)}.{nearest(name, paths)}'
    )
  get_config = load_function(path, 'get_config')
  if not argument:
    return get_config().lock()
  if not inspect.signature(get_config).parameters:
    raise InputError(
      f'config file {name!r} takes no argument, but got {argument!r}.'
    )
  try:
    return get_config(argument).lock()
  except ValueError as error:
    message, *words = error.args
    hint = ''
    if words:
      names, keys = words
      hint = ''.join(nearest(word, keys) for word in names)
    raise InputError(f'config file {name!r}: {message}.{hint}') from error


def check_keys(
  assignments: Sequence[str], known: Collection[str] | None = None
) -> None:
  """Raises InputError for an assignment with an unknown key or without a value.

  Args:
    assignments: Texts such as 'optimizer.lr=2e-4'.
    known: Known keys; None to accept the keys of any config.
  """
  if known is None:
    known = flatten(load_config('configs/distill/base.py').to_dict())
  for assignment in assignments:
    key, equals, _ = assignment.partition('=')
    if key not in known:
      raise InputError(
        f'unknown config key {quote(key)}.{suggestions.for_key(key, known)} '
        'All keys are in configs/base.py (and configs/distill/base.py).'
      )
    if not equals:
      raise InputError(f'--config.{key} needs a value: --config.{key}=VALUE.')


def override(
  config: ml_collections.ConfigDict, assignments: Sequence[str]
) -> ml_collections.ConfigDict:
  """Applies KEY=VALUE texts to a config; an invalid text raises InputError."""
  defaults = flatten(config.to_dict())
  check_keys(assignments, defaults)
  for assignment in assignments:
    key, _, text = assignment.partition('=')
    config.update_from_flattened_dict({key: _read(key, text, defaults[key])})
  return config


def _read(key: str, text: str, default: Any) -> Any:
  """Parses the text as a value of the default's type."""
  if isinstance(default, str):
    return text
  try:
    value = _literal(text)
    if isinstance(default, list):
      values = value if isinstance(value, tuple | list) else (value,)
      # An empty default has no element type, so later code checks the types.
      return tuple(_convert((default or [v])[0], v) for v in values)
    return _convert(default, value)
  except (ValueError, TypeError, OverflowError) as error:
    kind = 'tuple' if isinstance(default, list) else type(default).__name__
    raise InputError(
      f'config key {key} is {quote(text)}, expected a value of type {kind}, '
      f'such as {tuple(default) if kind == "tuple" else default}.'
    ) from error


def _literal(text: str) -> Any:
  """Evaluates a Python literal; raises ValueError if the text is not one."""
  if len(text) > MOST_LETTERS:
    raise ValueError('too long')
  try:
    with warnings.catch_warnings():  # Python warns about text such as '1if'
      warnings.simplefilter('ignore')
      return ast.literal_eval(
        text.title() if text in ('true', 'false') else text
      )
  except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
    raise ValueError('not a literal') from error


def _convert(default: Any, value: Any) -> Any:
  """Converts a value losslessly to the default's type, or raises ValueError."""
  kind = type(default)
  is_infinite = isinstance(value, float) and not math.isfinite(value)
  is_mixed = isinstance(value, bool) != (kind is bool)
  if is_infinite or is_mixed or kind(value) != value:
    raise ValueError
  return kind(value)
