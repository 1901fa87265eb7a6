"""One training step, compiled once; the old state is donated.

A step whose loss or gradient is not finite changes neither parameters nor
EMA nor optimiser; it counts in `bad_steps`, and the next step draws anew.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dit import latents, model
from dit.config import DiTConfig
from train import ema, objective
from train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
_IDENTITY = latents.Normalisation()


def make_train_step(
  config: DiTConfig,
  objective_config: objective.ObjectiveConfig,
  optimizer: optax.GradientTransformation,
  ema_config: ema.EMAConfig,
  abstract_state: TrainState,
  normalisation: latents.Normalisation = _IDENTITY,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
  """Builds the step.

  Args:
    config: the network.
    objective_config: the loss.
    optimizer: of the parameters.
    ema_config: of their average.
    abstract_state: fixes where the new state lives.
    normalisation: of the latents, where records are moments.

  Returns:
    A function of (state, batch, key) to (state, metrics): the loss, its terms
    ('loss/...'), and the global norms of gradient, update and parameters.
  """

  def train_step(state, batch, key):
    key = jax.random.fold_in(key, state.step)
    if 'moments' in batch:
      key, posterior_key = jax.random.split(key)
      posterior = latents.Posterior.from_stored(
        batch['moments'].astype(jnp.float32)
      )
      noise = jax.random.normal(posterior_key, posterior.mean.shape)
      x0 = normalisation.normalise(posterior.draw(noise))
    else:
      x0 = latents.from_pixels(batch['image'])

    def loss_of(params):
      denoiser = model.bind(config, params)
      return objective.loss(
        denoiser, objective_config, config.taps, x0, batch['label'], key
      )

    (loss, terms), grads = jax.value_and_grad(loss_of, has_aux=True)(
      state.params
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    grad_norm = optax.tree.norm(grads)
    ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    new = dataclasses.replace(
      state,
      params=params,
      ema=ema.update(ema_config, state.ema, params, state.step),
      opt_state=opt_state,
    )
    new = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, state)
    new = dataclasses.replace(
      new,
      step=state.step + 1,
      bad_steps=jnp.where(ok, 0, state.bad_steps + 1),
    )
    metrics = {
      'loss': loss,
      **{f'loss/{name}': value for name, value in terms.items()},
      'grad_norm': grad_norm,
      'update_norm': optax.tree.norm(updates),
      'param_norm': optax.tree.norm(new.params),
      'bad_steps': new.bad_steps,
    }
    return new, metrics

  return jax.jit(
    train_step,
    donate_argnums=0,
    out_shardings=(
      jax.tree.map(lambda leaf: leaf.sharding, abstract_state),
      None,
    ),
  )
