"""Guidance as text: 'ig:1.4,cfg:1.35@0-0.7', 's2:1.25:skip=2', 'none'.

Each method is `name:scale`, then `:option=value` for each of its options, then
`@low-high` for its interval in t (0 data, 1 noise).
"""

import dataclasses
import re

import jax
import numpy as np

from dit.config import nearest
from dit.types import InputError
from guidance.compose import Guidance
from guidance.terms import ClassifierFree, Internal, Scale, StochasticSelf

METHODS = {
  method.name: method for method in (Internal, ClassifierFree, StochasticSelf)
}
_NUMBER = r'(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?'


def parse(text: str) -> Guidance:
  """Reads guidance from text.

  Args:
    text: as in the module's examples; 'none' for no guidance.

  Returns:
    The guidance, methods in the order of the text.

  Raises:
    InputError: for an unknown method or option, or what is no number; names
      the right ones.
  """
  if text.strip() in ('', 'none'):
    return Guidance()
  methods = {}
  for part in text.split(','):
    method = _parse_method(part.strip(), text)
    if method.name in methods:
      raise InputError(f'guidance {text!r} names {method.name} twice.')
    methods[method.name] = method
  internal = methods.pop(Internal.name, None)
  return Guidance(internal, tuple(methods.values()))


def describe(guidance: Guidance) -> str:
  """The text from which `parse` makes `guidance`."""
  methods = [guidance.internal, *guidance.terms]
  parts = []
  for method in methods:
    if method is None:
      continue
    part = f'{method.name}:{_digits(method.scale.value)}'
    for name, default in _options(method).items():
      if getattr(method, name) != default:
        part += f':{name}={getattr(method, name)}'
    scale = method.scale
    if (scale.low, scale.high) != (0, 1):
      part += f'@{_digits(scale.low)}-{_digits(scale.high)}'
    parts.append(part)
  return ','.join(parts) or 'none'


def _digits(value: float | jax.Array) -> str:
  """The fewest digits that read back as the same number."""
  shortest = repr(value) if isinstance(value, float) else str(np.float32(value))
  return shortest.removesuffix('.0')


def _options(method) -> dict[str, int]:
  """Names and defaults of a method's own options."""
  return {
    field.name: field.default
    for field in dataclasses.fields(method)
    if field.name != 'scale'
  }


def _parse_method(part: str, text: str):
  name = re.split(r'[:@]', part)[0]
  if name not in METHODS:
    raise InputError(
      f'unknown guidance method {name!r} in {text!r}; the methods are '
      f'{", ".join(METHODS)} and none.{nearest(name, METHODS)}'
    )
  match = re.fullmatch(
    rf'{name}:({_NUMBER})((?::\w+=\d+)*)(?:@({_NUMBER})-({_NUMBER}))?', part
  )
  if not match:
    raise InputError(
      f'cannot read {part!r} in guidance {text!r}; expected '
      f'{name}:SCALE[:OPTION=NUMBER][@LOW-HIGH], such as {name}:1.4@0-0.7.'
    )
  options = {}
  known = _options(METHODS[name])
  for option in filter(None, match[2].split(':')):
    key, value = option.split('=')
    if key not in known:
      raise InputError(
        f'guidance {name} has no option {key!r}; it has '
        f'{", ".join(known) or "none"}.{nearest(key, known)}'
      )
    if key in options:
      raise InputError(f'guidance {part!r} sets {key} twice.')
    options[key] = int(value)
  interval = [float(bound) for bound in match.groups()[2:] if bound]
  value = float(match[1])
  if value == float('inf'):
    raise InputError(f'guidance {part!r}: the scale is not a finite number.')
  return METHODS[name](Scale(value, *interval), **options)
