"""The ODE run backwards, on a Gaussian whose density is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from dit.path import path_named
from sample.grid import make_grid
from sample.likelihood import bits_per_dimension, log_likelihood, to_noise
from sample.registry import make_solver
from sample.sampler import integrate
from sample.solvers import Evaluation

pytestmark = pytest.mark.usefixtures('quick_compilation')
MEAN, STD, SHAPE = 0.7, 0.4, (6, 2, 2, 3)


def velocity_of(path):
  """E[dx/dt | x] for data N(MEAN, STD^2)."""

  def velocity(x, t):
    alpha, sigma = path.alpha(t), path.sigma(t)
    away = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    return path.velocity(MEAN + alpha * STD**2 * away, sigma * away, t)

  return velocity


def back(velocity, noise, grid, name, path):
  def evaluate(x, t, n, memory):
    return Evaluation(velocity(x, t), None, memory)

  solver = make_solver(name, path)
  return integrate(evaluate, solver, noise, jnp.asarray(grid))[0]


@pytest.fixture
def data():
  return MEAN + STD * jax.random.normal(jax.random.key(0), SHAPE)


@pytest.mark.parametrize('path', ['linear', 'cosine'])
@pytest.mark.parametrize('name', ['rk4', 'heun:final_step=heun', 'midpoint'])
def test_there_and_back(data, path, name):
  path, grid = path_named(path), make_grid(64)
  velocity = velocity_of(path)
  noise = to_noise(velocity, data, grid, make_solver(name, path))
  # To where the exact map takes it: standard deviations are kept.
  np.testing.assert_allclose(noise, (data - MEAN) / STD, atol=2e-2)
  returned = back(velocity, noise, grid, name, path)
  atol = 1e-4 if name == 'rk4' else 5e-3
  np.testing.assert_allclose(returned, data, atol=atol)


def test_a_network_there_and_back(denoiser):
  path, grid = path_named('linear'), make_grid(40)
  label = jnp.arange(3)

  def velocity(x, t):
    return denoiser(x, jnp.full(3, t), label).velocity

  data = jax.random.normal(
    jax.random.key(1), (3, *denoiser.config.latent_shape)
  )
  noise = jax.jit(lambda x: to_noise(velocity, x, grid))(data)
  assert jnp.abs(noise - data).max() > 0.1
  returned = jax.jit(lambda x: back(velocity, x, grid, 'rk4', path))(noise)
  np.testing.assert_allclose(returned, data, atol=2e-3)


@pytest.mark.parametrize('path', ['linear', 'cosine'])
def test_density_of_a_gaussian(data, path):
  velocity = velocity_of(path_named(path))
  ours, noise = log_likelihood(velocity, data, make_grid(64), jax.random.key(2))
  exact = jax.scipy.stats.norm.logpdf(data, MEAN, STD).sum((1, 2, 3))
  assert ours.shape == (6,) and noise.shape == data.shape
  # The probes are exact here: the Jacobian is a multiple of the identity.
  np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-3)
  bits = bits_per_dimension(ours, 12)
  np.testing.assert_allclose(bits, -exact / 12 / np.log(2), rtol=1e-2)


def test_probes_are_unbiased():
  # dv/dx is no multiple of the identity; its trace over time is 0.6.
  matrix = jnp.asarray([[0.2, 0.5], [0.3, 0.4]])

  def velocity(x, t):
    return jnp.einsum('ij,bhwj->bhwi', matrix, x)

  x = jnp.zeros((2000, 1, 1, 2))
  ours, _ = log_likelihood(velocity, x, make_grid(8), jax.random.key(3))
  exact = 2 * jax.scipy.stats.norm.logpdf(0.0) + 0.6
  assert ours.std() > 0.1
  assert abs(ours.mean() - exact) < 4 * ours.std() / 2000**0.5


@pytest.mark.parametrize('name', ['euler_maruyama', 'dopri5'])
def test_refuses_what_has_no_way_back(data, name):
  path = path_named('linear')
  with pytest.raises(InputError, match='cannot run backwards'):
    to_noise(velocity_of(path), data, make_grid(4), make_solver(name, path))
