"""Gradient and three training steps match the public IG-SiT code.

The settings are our defaults, which equal the published recipe. Tolerances are
ten times the float32 errors that the README of the golden files lists.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from configs import base
from dit import model
from dit.weights import convert
from train import ema
from train.objective import ObjectiveConfig, loss_at
from train.optimizer import OptimizerConfig, make_optimizer, make_schedule

DEFAULTS = base.get_config().to_dict()
OBJECTIVE = ObjectiveConfig(**DEFAULTS['objective'])
OPTIMIZER = OptimizerConfig(**DEFAULTS['optimizer'])
EMA = ema.EMAConfig(**DEFAULTS['ema'])


def read(name):
  return reference.read(f'ig_sit/{name}')


def parameters(name):
  """Returns config and parameters of a golden file. Missing tensors are 0."""
  start = read('model.safetensors')
  tensors = jax.tree.map(np.zeros_like, start) | read(name)
  return convert.from_published(
    tensors, family='ig_sit', num_heads=4, taps=(2,)
  )


def largest(ours, golden):
  differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), ours, golden)
  return max(jax.tree.leaves(differences))


@pytest.fixture(scope='module')
def start():
  return jax.tree.map(jnp.asarray, parameters('model.safetensors')[1])


@pytest.fixture(scope='module')
def gradient():
  """A function of (params, x0, noise, t, label) to ((loss, terms), grads)."""
  config, _ = parameters('model.safetensors')

  def loss_of(params, *batch):
    return loss_at(model.bind(config, params), OBJECTIVE, config.taps, *batch)

  return jax.jit(jax.value_and_grad(loss_of, has_aux=True))


@pytest.mark.slow
def test_gradient(start, gradient):
  golden = read('loss.npz')
  x0, noise = (reference.nhwc(golden[name]) for name in ('images', 'noise'))
  batch = x0, noise, golden['linear_uniform/raw'], golden['y']
  (loss, terms), ours = gradient(start, *batch)
  np.testing.assert_allclose(loss, 5.186627, atol=1e-6)
  for name, term in (('velocity', 'denoising'), ('intermediate_2', 'align')):
    np.testing.assert_allclose(
      terms[name], golden[f'linear_uniform/{term}_loss_f64'].mean(), rtol=5e-7
    )
  np.testing.assert_allclose(optax.tree.norm(ours), 3.812284, atol=1e-6)
  _, expected = parameters('loss_grads.safetensors')
  assert largest(ours, expected) < 6.6e-7


def test_three_steps(start, gradient):
  golden = read('train3.npz')
  dropped = golden['drop_u'] < OBJECTIVE.label_dropout
  label = np.where(dropped, start['label_embed'].shape[0] - 1, golden['y'])
  schedule = make_schedule(OPTIMIZER, batch_size=6, total_images=18)
  optimizer = make_optimizer(OPTIMIZER, schedule)
  params = average = start
  opt_state = optimizer.init(params)

  @jax.jit
  def step(params, average, opt_state, grads, n):
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return params, ema.update(EMA, average, params, n), opt_state

  x0, noise = (reference.nhwc(golden[name]) for name in ('latents', 'noise'))
  for n in range(3):
    batch = x0[n], noise[n], golden['t'][n], label[n]
    (_, terms), grads = gradient(params, *batch)
    for ours, name in (
      (terms['velocity'], 'gen_loss'),
      (0.5 * terms['intermediate_2'], 'align_loss_x0.5'),
      (optax.tree.norm(grads), 'grad_norm'),
    ):
      np.testing.assert_allclose(ours, golden[f'log64_{name}'][n], rtol=2e-6)
    params, average, opt_state = step(params, average, opt_state, grads, n)

  _, expected = parameters('train3_params.safetensors')
  assert largest(params, expected) < 3.3e-5
  # The EMA barely moves in three steps, so test_ema.py has more tests.
  _, expected = parameters('train3_ema.safetensors')
  assert largest(average, expected) < 3.6e-6
