"""The compiled training step, which donates the old state.

With `accumulate` > 1, the parts of a batch run in sequence, and their gradients
are averaged. Noise and times are sampled for the whole batch before the split.

A step with a non-finite loss or gradient leaves parameters, averages and
optimizer unchanged. `bad_steps` counts this step; the next step has new noise.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from dit import backbone, latents
from dit.base import NetworkConfig
from dit.sharding import BATCH_AXES, constrain
from train import ema, objective
from train.state import TrainState, trained

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
State = TypeVar('State', bound=TrainState)
_IDENTITY = latents.Normalization()


def make_train_step(
  config: NetworkConfig,
  objective_config: objective.ObjectiveConfig,
  optimizer: optax.GradientTransformation,
  ema_config: ema.EMAConfig,
  abstract_state: TrainState,
  normalization: latents.Normalization = _IDENTITY,
  accumulate: int = 1,
  parameters: str = 'all',
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
  """Builds the compiled training step.

  Args:
    config: Configuration of the network.
    objective_config: Settings of the loss.
    optimizer: Optimizer of the parameters.
    ema_config: Settings of the averages.
    abstract_state: Abstract state, whose shardings the new state receives.
    normalization: Normalization of latents that are sampled from moments.
    accumulate: Number of parts that each batch is split into.
    parameters: Trained parameters, 'all' or 'taps'; the others are constants.

  Returns:
    Function from (state, batch, key) to (state, metrics). The metrics are the
    loss, its terms ('loss/...'), `bad_steps`, and the global norms of the
    gradient, the update and the parameters.
  """

  def train_step(state, batch, key):
    key = jax.random.fold_in(key, state.step)
    x0, key = latents_of(batch, normalization, key)
    noise, t, label = objective.draw(
      objective_config, x0, batch['label'], key, config.num_classes
    )
    guide = _guide_of(config, objective_config, state, len(label))

    def loss_of(part, *batch):
      denoiser = backbone.bind(config, {**state.params, **part})
      return objective.loss_at(
        denoiser, objective_config, config.taps, *batch, guide=guide
      )

    old = trained(config, state.params, parameters)
    (loss, terms), grads = _accumulate(
      jax.value_and_grad(loss_of, has_aux=True), accumulate
    )(old, x0, noise, t, label)
    updates, opt_state = optimizer.update(grads, state.opt_state, old)
    part = optax.apply_updates(old, updates)
    average = trained(config, state.ema, parameters)
    grad_norm = optax.tree.norm(grads)
    ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    params = {**state.params, **part}
    new = dataclasses.replace(
      state,
      params=params,
      ema={
        **state.ema,
        **ema.update(ema_config, average, part, state.step),
      },
      power=ema.update_power(ema_config, state.power, params, state.step),
      opt_state=opt_state,
    )
    new = accept(new, state, ok)
    metrics = {
      'loss': loss,
      **{f'loss/{name}': value for name, value in terms.items()},
      'grad_norm': grad_norm,
      'update_norm': optax.tree.norm(updates),
      'param_norm': optax.tree.norm(new.params),
      'bad_steps': new.bad_steps,
    }
    return new, metrics

  return compiled(train_step, abstract_state)


def _guide_of(
  config: NetworkConfig,
  objective_config: objective.ObjectiveConfig,
  state: TrainState,
  batch_size: int,
) -> objective.Guide | None:
  """Returns the guide of the target, the EMA network; None without a guide."""
  if not objective_config.guided_weight:
    return None
  # The number of images may overflow int32, so the code compares steps.
  images = objective_config.guided_start_images
  start = min(-(-images // batch_size), 2**31 - 1)
  weight = jnp.where(state.step >= start, objective_config.guided_weight, 0.0)
  return objective.Guide(
    backbone.bind(config, state.ema),
    weight,
    objective_config.guided_weak,
    objective_config.guided_blocks,
  )


def accept(new: State, old: State, ok: jax.Array) -> State:
  """Returns `new` if `ok`, else `old`, and updates `step` and `bad_steps`."""
  state = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
  return dataclasses.replace(
    state,
    step=old.step + 1,
    bad_steps=jnp.where(ok, 0, old.bad_steps + 1),
  )


def compiled(step: Callable[..., Any], state: TrainState) -> Callable[..., Any]:
  """Compiles a step that donates the old state and keeps the shardings."""
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def latents_of(
  batch: Batch, normalization: latents.Normalization, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns float32 latents or images (B, H, W, C), and the next random key.

  The batch has the key 'image', or 'moments' for the posterior of latents.
  """
  if 'moments' not in batch:
    return latents.from_pixels(batch['image']), key
  key, posterior_key = jax.random.split(key)
  posterior = latents.Posterior.from_stored(
    batch['moments'].astype(jnp.float32)
  )
  noise = jax.random.normal(posterior_key, posterior.mean.shape)
  return normalization.normalize(posterior.draw(noise)), key


def _accumulate(grad: Callable[..., Any], parts: int) -> Callable[..., Any]:
  """Returns a function that averages `grad(params, *part)` over batch parts.

  Part k has the examples k, k + parts, ..., so examples stay on their devices.
  """
  if parts == 1:
    return grad

  def split(x):
    x = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
    return constrain(x, None, BATCH_AXES)

  def accumulate(params, *batch):
    def body(total, part):
      return jax.tree.map(jnp.add, total, grad(params, *part)), None

    batch = jax.tree.map(split, batch)
    zeros = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(grad, params, *(x[0] for x in batch)),
    )
    total, _ = jax.lax.scan(body, zeros, batch)
    return jax.tree.map(lambda x: x / parts, total)

  return accumulate
