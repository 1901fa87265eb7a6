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

from dit import model
from dit.config import DiTConfig
from dit.sharding import tree_shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Plain nested dictionaries and counters.

  Attributes:
    step: steps taken, including skipped ones.
    bad_steps: non-finite steps in a row, up to now; they changed nothing else.
    params: of the network.
    ema: their moving average, float32.
    opt_state: of the optimiser.
  """

  step: jax.Array
  bad_steps: jax.Array
  params: model.Params
  ema: model.Params
  opt_state: Any


def fresh(
  config: DiTConfig, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
  """The state before the first step."""
  params = model.init(config, jax.random.key(seed))
  return TrainState(
    step=jnp.int32(0),
    bad_steps=jnp.int32(0),
    params=params,
    # A copy, since the step donates both, and float32 whatever the parameters
    # are: its changes are smaller than bfloat16 can tell.
    ema=jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params),
    opt_state=optimizer.init(params),
  )


def abstract(
  config: DiTConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shapes, dtypes and shardings of the state; allocates nothing."""
  shapes = jax.eval_shape(functools.partial(fresh, config, optimizer, seed=0))
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    tree_shardings(shapes, mesh),
  )


def init(
  config: DiTConfig,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
) -> TrainState:
  """A fresh state, made in place: no device ever holds what is not its own."""
  shardings = jax.tree.map(
    lambda leaf: leaf.sharding, abstract(config, optimizer, mesh)
  )
  make = functools.partial(fresh, config, optimizer, seed=seed)
  return jax.jit(make, out_shardings=shardings)()
