"""A loader of functions from the user's Python files."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

from core.errors import InputError, reason


def load_function(path: pathlib.Path, name: str) -> Callable[..., Any]:
  """Runs a Python file and returns its function `name`."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None  # true for any .py file
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:  # the file may raise any exception
    raise InputError(f'{path} does not run: {reason(error)}.') from error
  function = getattr(module, name, None)
  if function is None:
    raise InputError(f'{path} defines no {name}().')
  return function
