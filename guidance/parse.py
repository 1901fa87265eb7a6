"""Guidance as text: 'ig:1.4,cfg:1.35@0-0.7', 's2:1.25:skip=2', 'none'.

A method is `name:scale`, then `:option=value` for each option, then `@low-high`
for an interval in t (0 data, 1 noise). Block lists have the form 7+8+9. Every
method has the options `schedule` (constant, linear, cosine, power_cosine) and
`power`, but `cfg++` sets its own schedule. `rescale:phi` has no interval and no
options; it rescales the guided velocity.
"""

import dataclasses
import re
from typing import Any

import numpy as np

from core.errors import InputError, nearest, quote
from core.options import read_options
from core.ranges import check_value
from guidance import label, network
from guidance.base import GuideTerm, Term
from guidance.compose import Guidance
from guidance.scale import Scale

# Methods in the order in which guidance applies them.
METHODS: dict[str, type[Term | network.Internal]] = {
  method.name: method
  for method in (
    network.Internal,
    label.ClassifierFree,
    label.ClassifierFreePlusPlus,
    label.ClassifierFreeZero,
    label.AdaptiveProjected,
    label.Tangential,
    label.FrequencyDecoupled,
    label.IndependentCondition,
    network.StochasticSelf,
    network.SkipLayer,
    network.AutoGuidance,
  )
}
RESCALE = 'rescale'
NAMES = (*METHODS, RESCALE)
_NUMBER = r'(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?'
_SCALE_OPTIONS = ('schedule', 'power')


def parse(text: str) -> Guidance:
  """Parses guidance text, which may list methods in any order.

  Raises:
    InputError: A method or option is unknown, or a value is not a number.
  """
  check_value('guidance', text, str)
  if text.strip() in ('', 'none'):
    return Guidance()
  methods: dict[str, Term | network.Internal | float] = {}
  for part in map(str.strip, text.split(',')):
    name = re.split(r'[:@]', part)[0]
    if name in methods:
      raise InputError(f'guidance {quote(text)} names {name} twice.')
    methods[name] = _parse_method(name, part, text)
  terms = [methods[name] for name in NAMES if name in methods]
  return Guidance(
    next((m for m in terms if isinstance(m, network.Internal)), None),
    tuple(m for m in terms if isinstance(m, Term)),
    next((m for m in terms if isinstance(m, float)), None),
  )


def describe(guidance: Guidance) -> str:
  """Returns the guidance as text for `parse`; the text omits the guide."""
  parts = []
  for method in (guidance.internal, *guidance.terms):
    if method is None:
      continue
    part = f'{method.name}:{_write(method.scale.value)}'
    for name, default in _options(type(method)).items():
      owner = method.scale if name in _SCALE_OPTIONS else method
      if (value := getattr(owner, name)) != default:
        part += f':{name}={_write(value)}'
    scale = method.scale
    if (scale.low, scale.high) != (0, 1):
      part += f'@{_write(scale.low)}-{_write(scale.high)}'
    parts.append(part)
  if guidance.rescale is not None:
    parts.append(f'{RESCALE}:{_write(guidance.rescale)}')
  return ','.join(parts) or 'none'


def with_guide(guidance: Guidance, guide: Any) -> Guidance:
  """Returns the guidance with `guide` set in all methods that need it."""
  terms = (
    dataclasses.replace(term, guide=guide)
    if isinstance(term, GuideTerm)
    else term
    for term in guidance.terms
  )
  return dataclasses.replace(guidance, terms=tuple(terms))


def _write(value: Any) -> str:
  """Returns a value as text; a number has the fewest possible digits."""
  if isinstance(value, str):
    return value
  if isinstance(value, tuple):
    return '+'.join(map(str, value))
  if isinstance(value, int):
    return str(value)
  if isinstance(value, float):
    return repr(float(value)).removesuffix('.0')  # float() drops numpy's type
  return str(np.float32(value)).removesuffix('.0')


def _options(method: type[Term | network.Internal]) -> dict[str, Any]:
  """Returns the names and defaults of a method's options."""
  fields = [
    *(f for f in dataclasses.fields(Scale) if f.name in _SCALE_OPTIONS),
    *(
      f for f in dataclasses.fields(method) if f.name not in ('scale', 'guide')
    ),
  ]
  return {field.name: field.default for field in fields}


def _parse_method(
  name: str, part: str, text: str
) -> Term | network.Internal | float:
  if name not in NAMES:
    raise InputError(
      f'unknown guidance method {quote(name)} in {quote(text)}; the methods '
      'are '
      f'{", ".join(NAMES)} and none.{nearest(name, NAMES)}'
    )
  match = re.fullmatch(
    rf'{re.escape(name)}:({_NUMBER})((?::\w+=[^:@]+)*)'
    rf'(?:@({_NUMBER})-({_NUMBER}))?',
    part,
  )
  if name == RESCALE:
    if not match or float(match[1]) > 1 or match[2] or match[3]:
      raise InputError(
        f'cannot read {quote(part)} in guidance {quote(text)}; expected '
        f'{RESCALE}:PHI '
        'with PHI from 0 (off) to 1.'
      )
    return float(match[1])
  if not match:
    raise InputError(
      f'cannot read {quote(part)} in guidance {quote(text)}; expected '
      f'{name}:SCALE[:OPTION=VALUE][@LOW-HIGH], such as {name}:1.4@0-0.7.'
    )
  value = float(match[1])
  if value == float('inf'):
    raise InputError(
      f'guidance {quote(part)}: the scale is not a finite number.'
    )
  options = read_options(
    f'guidance {name}',
    f'guidance {quote(part)}',
    match[2].split(':')[1:],
    _options(METHODS[name]),
  )
  scale_options = {
    key: options.pop(key) for key in _SCALE_OPTIONS if key in options
  }
  low, high = float(match[3] or 0), float(match[4] or 1)
  return METHODS[name](Scale(value, low, high, **scale_options), **options)
