"""Loss and gradient match the public DiT code, with its variance term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from configs import dit as recipe
from dit import model
from dit.path import STEPS, path_named
from dit.weights import convert
from sample.ddpm import discrete_grid, variances
from train.objective import ObjectiveConfig, loss_at, noise_losses

OBJECTIVE = ObjectiveConfig(**recipe.get_config().objective.to_dict())


def read(name):
  return reference.read(f'dit/{name}')


def parameters(name):
  start = read('model.safetensors')
  tensors = jax.tree.map(np.zeros_like, start) | read(name)
  return convert.from_published(tensors, family='dit', num_heads=4)


@pytest.fixture(scope='module')
def batch():
  golden = read('loss.npz')
  x0, noise = (reference.nhwc(golden[name]) for name in ('x_start', 'noise'))
  t = jnp.float32((golden['t'] + 1) / np.float32(STEPS))
  return x0, noise, t, golden['y'].astype(np.int32)


def test_terms(batch):
  golden = read('loss.npz')
  config, params = parameters('model.safetensors')
  final, taps, bits = jax.jit(noise_losses, static_argnums=1)(
    model.bind(config, params), path_named('discrete'), *batch
  )
  assert taps == ()
  np.testing.assert_allclose(final, golden['mse_f64'], atol=2e-6)
  likelihood = golden['t'] == 0
  assert likelihood.any()
  bits, expected = np.asarray(bits), golden['vb_f64']
  later = ~likelihood
  np.testing.assert_allclose(bits[later], expected[later], atol=6e-6)
  np.testing.assert_allclose(bits[likelihood], expected[likelihood], rtol=1e-2)
  # The tolerance is ten times the difference between the float32 and float64
  # results of the reference. Each row must be within the tolerance.
  np.testing.assert_allclose(bits[later], expected[later], rtol=2.2e-6)


@pytest.mark.parametrize('respacing', ['', '250', 'ddim25', '50,30,20'])
def test_variances_are_those_of_the_float64_tables(respacing):
  golden, path = read('schedule.npz'), path_named('discrete')
  grid = discrete_grid(respacing or str(STEPS))[::-1].astype(np.float32)
  beta, small = jax.jit(variances, static_argnums=0)(path, grid[1:], grid[:-1])
  betas = golden[f'[{respacing}]/betas']
  np.testing.assert_allclose(beta, betas, rtol=1e-6)
  if respacing:
    posterior = golden[f'[{respacing}]/posterior_variance']
  else:
    kept = golden['[]/alphas_cumprod']
    before = np.append(1.0, kept[:-1])
    posterior = betas * (1 - before) / (1 - kept)
  np.testing.assert_allclose(small, posterior, rtol=2e-6)


def test_variances_are_smooth_between_steps():
  path, t = path_named('discrete'), np.float32([0.3, 0.5, 0.9])
  beta, small = variances(path, t, t - np.float32(0.1))
  shifted = variances(path, t + 5e-6, t - np.float32(0.1) + 5e-6)
  for near, at in zip(shifted, (beta, small), strict=True):
    np.testing.assert_allclose(near, at, rtol=1e-4)
    assert (near != at).all()


def test_gradient(batch):
  golden = read('loss.npz')
  config, params = parameters('model.safetensors')

  def loss_of(params):
    return loss_at(model.bind(config, params), OBJECTIVE, (), *batch)

  (loss, terms), ours = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
    jax.tree.map(jnp.asarray, params)
  )
  assert set(terms) == {'noise', 'variance'}
  np.testing.assert_allclose(loss, golden['loss_f64'].mean(), rtol=1e-5)
  _, theirs = parameters('loss_grads.safetensors')
  leaves = map(jax.tree.leaves_with_path, (ours, theirs))
  for (path, a), (_, b) in zip(*leaves, strict=True):
    if path[-1].key == 'position':
      continue  # The table of positions is fixed.
    scale = np.abs(b).max()
    np.testing.assert_allclose(a, b, atol=5e-5 * scale, err_msg=str(path))
