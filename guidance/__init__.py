"""Guidance: the arithmetic that combines predictions into one velocity."""

from guidance.base import Step
from guidance.compose import Guidance, Guided
from guidance.label import (
  AdaptiveProjected,
  ClassifierFree,
  ClassifierFreePlusPlus,
  ClassifierFreeZero,
  FrequencyDecoupled,
  IndependentCondition,
  Tangential,
)
from guidance.network import (
  AutoGuidance,
  Internal,
  SkipLayer,
  StochasticSelf,
  extrapolate,
)
from guidance.parse import parse
from guidance.scale import Scale

__all__ = [
  'AdaptiveProjected',
  'AutoGuidance',
  'ClassifierFree',
  'ClassifierFreePlusPlus',
  'ClassifierFreeZero',
  'FrequencyDecoupled',
  'Guidance',
  'Guided',
  'IndependentCondition',
  'Internal',
  'Scale',
  'SkipLayer',
  'Step',
  'StochasticSelf',
  'Tangential',
  'extrapolate',
  'parse',
]
