"""The state of a run: everything that the next step depends on.

No random key is stored: step n uses fold_in(key(seed), n). No position in the
data either: the batch of step n is a function of (seed, n).
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
  """Plain nested dictionaries and counters.

  Attributes:
    step: steps taken, including skipped ones.
    bad_steps: non-finite steps in a row, up to now; they changed nothing else.
    params: of the network.
    ema: their moving average, float32.
    power: their power-function averages, likewise; see `train.ema`.
    opt_state: of the optimizer.
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
) -> TrainState:
  """The state before the first step, with so many power-function averages."""
  params = backbone.init(config, jax.random.key(seed))

  def average():
    # A copy, since the step donates both, and float32 whatever the parameters
    # are: its changes are smaller than bfloat16 can tell.
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)

  return TrainState(
    step=jnp.int32(0),
    bad_steps=jnp.int32(0),
    params=params,
    ema=average(),
    power=tuple(average() for _ in range(averages)),
    opt_state=optimizer.init(params),
  )


def abstract(
  config: NetworkConfig,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  averages: int = 0,
  zero1: bool = False,
) -> TrainState:
  """Shapes, dtypes and shardings of the state; allocates nothing.

  Args:
    config: the network.
    optimizer: of its parameters.
    mesh: where the state lives.
    averages: power-function averages.
    zero1: whether optimizer state and averages are cut over `data` as well.
  """
  make = functools.partial(fresh, config, optimizer, averages=averages)
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
  """A fresh state, made in place: no device ever holds what is not its own.

  Args:
    config: the network.
    optimizer: of its parameters.
    mesh: where the state lives.
    seed: of the parameters.
    **options: of `abstract`.
  """
  target = abstract(config, optimizer, mesh, **options)
  make = functools.partial(
    fresh, config, optimizer, seed=seed, averages=len(target.power)
  )
  shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
  return jax.jit(make, out_shardings=shardings)()
