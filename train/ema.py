"""The exponential moving average of the parameters.

  ema <- d_n ema + (1 - d_n) params,   d_n = min(decay, (1 + n) / (10 + n))

with n the number of steps before this one, skipped ones included: the ramp lets
a short run forget its initialisation. Without the ramp, d_n = decay.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dit.types import InputError


@dataclasses.dataclass(frozen=True)
class EMAConfig:
  """The decay per step, and whether it ramps up."""

  decay: float
  ramp: bool

  def __post_init__(self) -> None:
    """Checks the decay."""
    if not 0 <= self.decay < 1:
      raise InputError(f'ema.decay is {self.decay}, expected 0 <= decay < 1.')


def update(config: EMAConfig, ema: Any, params: Any, step: jax.Array) -> Any:
  """The average after `step` steps and this one."""
  decay = jnp.float32(config.decay)
  if config.ramp:
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)
