"""The optimizer: AdamW or Muon with gradient clipping and warm-up, in optax."""

import dataclasses
from typing import Annotated

import jax
import optax

from core.ranges import (
  LARGE,
  Choice,
  Decay,
  Fraction,
  Images,
  LearningRate,
  Range,
  Weight,
  check_fields,
)
from dit.base import DTYPES
from train import muon

NAMES = ('adamw', 'muon')
SCHEDULES = ('constant', 'cosine')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings of optimizer and schedule; configs/base.py explains each field."""

  lr: LearningRate
  b1: Decay
  b2: Decay
  eps: Annotated[float, Range(1e-30, LARGE)]
  weight_decay: Weight
  clip: Weight
  warmup_images: Images
  schedule: Annotated[str, Choice(SCHEDULES)]
  end_fraction: Fraction
  name: Annotated[str, Choice(NAMES)] = 'adamw'
  momentum: Fraction = 0.95
  muon_dtype: Annotated[str, Choice(DTYPES[1:])] = 'bfloat16'

  def __post_init__(self) -> None:
    check_fields('optimizer', self)


def make_schedule(
  config: OptimizerConfig, *, batch_size: int, total_images: int
) -> optax.Schedule:
  """Returns a function from the step to the learning rate."""
  warmup = config.warmup_images // batch_size
  steps = max(total_images // batch_size - warmup, 1)
  if config.schedule == 'constant':
    decay = optax.constant_schedule(config.lr)
  else:
    decay = optax.cosine_decay_schedule(config.lr, steps, config.end_fraction)
  # The warm-up starts at lr / warmup, since lr 0 would waste the first update.
  rise = optax.linear_schedule(
    config.lr / max(warmup, 1), config.lr, max(warmup - 1, 1)
  )
  return optax.join_schedules([rise, decay], [warmup])


def make_optimizer(
  config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Returns gradient clipping followed by AdamW or Muon."""
  clip = (
    optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
  )
  if config.name == 'muon':
    rules = {
      'muon': optax.chain(
        muon.scale_by_muon(config.momentum, config.muon_dtype),
        optax.add_decayed_weights(config.weight_decay),
      ),
      'adam': optax.scale_by_adam(config.b1, config.b2, config.eps),
      'frozen': optax.set_to_zero(),
    }
    return optax.chain(
      clip,
      optax.partition(rules, muon.groups),
      optax.scale_by_learning_rate(schedule),
    )
  return optax.chain(
    clip,
    optax.adamw(
      schedule,
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=_is_matrix,
    ),
  )


def _is_matrix(params):
  return jax.tree.map_with_path(
    lambda path, _: path[-1].key == 'kernel', params
  )
