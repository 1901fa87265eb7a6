"""The state of a run between two steps.

The state contains no random key, since step n uses fold_in(key(seed), n). It
contains no position in the data, since (seed, n) determine the batch of step n.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dit import backbone
from dit.base import NetworkConfig, Params
from dit.sharding import placed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Counters, parameters and optimizer state; parameters are nested dicts.

  Attributes:
    step: Number of steps taken, including skipped steps.
    bad_steps: Number of skipped, non-finite steps since the last finite step.
    params: Parameters of the network.
    ema: Exponential moving average of the parameters, float32.
    power: Power-function averages of the parameters, float32; see `train.ema`.
    opt_state: State of the optimizer.
  """

  step: jax.Array
  bad_steps: jax.Array
  params: Params
  ema: Params
  power: tuple[Params, ...]
  opt_state: Any


def fresh(
  config: NetworkConfig,
  optimizer: optax.GradientTransformation,
  seed: int,
  averages: int = 0,
  parameters: str = 'all',
) -> TrainState:
  """Returns the initial state with `averages` power-function averages.

  The optimizer has state only for the trained `parameters`.
  """
  params = backbone.init(config, jax.random.key(seed))

  def average():
    # The average is a copy, since the step donates both parameters and average.
    # It is float32, since bfloat16 could not represent its small changes.
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)

  return TrainState(
    step=jnp.int32(0),
    bad_steps=jnp.int32(0),
    params=params,
    ema=average(),
    power=tuple(average() for _ in range(averages)),
    opt_state=optimizer.init(trained(config, params, parameters)),
  )


def trained(config: NetworkConfig, params: Params, parameters: str) -> Params:
  """Returns the part of `params` that `train.parameters` selects."""
  if parameters == 'taps':
    return backbone.tap_params(config, params)
  return params


def abstract(
  config: NetworkConfig,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  averages: int = 0,
  zero1: bool = False,
  parameters: str = 'all',
) -> TrainState:
  """Returns shapes, dtypes and shardings of a state without allocating it.

  `averages` is the number of power-function averages. With `zero1`, optimizer
  state and averages are also sharded over `data`. The optimizer has state for
  the trained `parameters`.
  """
  make = functools.partial(
    fresh, config, optimizer, averages=averages, parameters=parameters
  )
  shapes = jax.eval_shape(functools.partial(make, seed=0))
  shardings = dataclasses.replace(
    backbone.shardings(config, shapes, mesh, zero1=zero1),
    params=backbone.shardings(config, shapes.params, mesh),
  )
  return placed(shapes, shardings)


def init(
  config: NetworkConfig,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
  **options: Any,
) -> TrainState:
  """Returns an initial state; each device allocates only its own shard.

  `abstract` explains the options; `fresh` explains the other arguments.
  """
  target = abstract(config, optimizer, mesh, **options)
  options.pop('zero1', None)
  make = functools.partial(fresh, config, optimizer, seed=seed, **options)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
  return jax.jit(make, out_shardings=shardings)()
