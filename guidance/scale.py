"""The scale of a method: its value, interval in t and schedule.

Inside the closed interval (t is 0 at the data, 1 at the noise), the scale is

  constant       w
  linear         1 + (w - 1) 2 (1 - t)                   (arXiv 2404.13040)
  cosine         1 + (w - 1) (1 + cos(pi t))             (arXiv 2404.13040)
  power_cosine   1 + (w - 1) (1 - cos(pi (1 - t)^s)) / 2   (MDT; s is `power`)

where w is the given value. Outside the interval, the scale is 1, which disables
guidance (arXiv 2404.07724). The first three schedules have equal means over t.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from core.errors import InputError, check_choice, check_range
from core.ranges import LARGE


def static(default: Any) -> Any:
  """Returns a dataclass field that is static in compiled programs."""
  return dataclasses.field(default=default, metadata={'static': True})


def is_number(value: Any) -> bool:
  """Returns whether `value` is a Python number, and not an array."""
  return isinstance(value, int | float)


def check_number(name: str, value: Any, low: float, high: float) -> None:
  """Checks the range of a Python number; does not check arrays."""
  if is_number(value):
    check_range(name, value, low, high)


SCHEDULES = {
  'linear': lambda t, power: 2 * (1 - t),
  'cosine': lambda t, power: 1 + jnp.cos(jnp.pi * t),
  'power_cosine': lambda t, power: (1 - jnp.cos(jnp.pi * (1 - t) ** power)) / 2,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scale:
  """A guidance scale with its interval and schedule.

  The value and the interval are pytree leaves, so a sweep over them compiles
  once.

  Attributes:
    value: w.
    low: Lowest time of the interval.
    high: Highest time of the interval.
    schedule: 'constant' or one of SCHEDULES.
    power: Exponent s of 'power_cosine'.
  """

  value: float | jax.Array
  low: float | jax.Array = 0.0
  high: float | jax.Array = 1.0
  schedule: str = static('constant')
  power: float = static(4.0)

  def __post_init__(self) -> None:
    check_number('guidance scale', self.value, -LARGE, LARGE)
    numbers = is_number(self.low) and is_number(self.high)
    if numbers and not 0 <= self.low < self.high <= 1:
      raise InputError(
        f'guidance interval {self.low:g}-{self.high:g}: expected '
        '0 <= low < high <= 1, with t = 0 at the data and 1 at the noise.'
      )
    check_choice('guidance schedule', self.schedule, ('constant', *SCHEDULES))
    check_range('guidance power', self.power, 0, 100)
    if self.power != Scale.power and self.schedule != 'power_cosine':
      raise InputError(
        f'guidance power={self.power:g} is for schedule=power_cosine, not '
        f'{self.schedule}; leave one of them out.'
      )

  def at(self, t: jax.Array) -> jax.Array:
    """Returns the scale at time t; outside the interval, the scale is 1."""
    value = self.value
    if self.schedule != 'constant':
      value = 1 + (value - 1) * SCHEDULES[self.schedule](t, self.power)
    return self.inside(t, value)

  def inside(self, t: jax.Array, value: float | jax.Array) -> jax.Array:
    """Returns `value` where t is in the interval, and 1 elsewhere."""
    # The comparison is in float32, so an interval that ends at 0.2 includes 0.2
    # for every state type. The clip is for solver steps that end below t = 0.
    t = jnp.clip(jnp.float32(t), 0, 1)
    low, high = jnp.float32(self.low), jnp.float32(self.high)
    return jnp.where((low <= t) & (t <= high), value, 1.0)
