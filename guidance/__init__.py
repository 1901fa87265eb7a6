"""How several predictions become one velocity: arithmetic only."""

from guidance.compose import Guidance
from guidance.parse import parse
from guidance.terms import (
  ClassifierFree,
  Internal,
  Scale,
  StochasticSelf,
  extrapolate,
)

__all__ = [
  'ClassifierFree',
  'Guidance',
  'Internal',
  'Scale',
  'StochasticSelf',
  'extrapolate',
  'parse',
]
