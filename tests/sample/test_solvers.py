"""Solvers: measured orders, exact cases, moments of a known SDE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.path import path_named
from dit.types import InputError
from sample.grid import make_grid
from sample.sampler import integrate
from sample.solvers import SOLVERS, make_solver

LINEAR = path_named('linear')


def solve(name, velocity, x, steps):
  grid = jnp.asarray(make_grid(steps))
  solver = make_solver(name, LINEAR)
  return integrate(lambda x, t, n: velocity(x, t), solver, x, grid)


@pytest.mark.parametrize(('name', 'order'), [('euler', 1), ('heun', 2)])
def test_order(name, order):
  # dx/dt = -x^2 (1 + 2t): 1/x(t) = 1/x(1) + t + t^2 - 2.
  x = jnp.asarray([0.2, 0.3])
  exact = 1 / (1 / x - 2)
  steps = [8, 16, 32, 64]
  errors = [
    jnp.abs(solve(name, lambda x, t: -(x**2) * (1 + 2 * t), x, n) - exact).max()
    for n in steps
  ]
  slopes = -np.diff(np.log2(np.asarray(errors)))
  np.testing.assert_allclose(slopes[-1], order, atol=0.15)
  np.testing.assert_allclose(slopes, order, atol=0.5)


@pytest.mark.parametrize('name', ['euler', 'heun'])
@pytest.mark.parametrize('steps', [1, 5])
def test_exact_on_a_constant_field(name, steps):
  # Straight trajectories: velocity = noise - x0.
  noise, x0 = jnp.asarray([1.5, -2.0]), jnp.asarray([0.25, 3.0])
  x = solve(name, lambda x, t: noise - x0, noise, steps)
  np.testing.assert_allclose(x, x0, atol=1e-6)


def test_heun_is_exact_where_the_field_is_linear_in_time():
  # dx/dt = 2t on a grid whose last, Euler, step is short of nothing.
  solver = make_solver('heun', LINEAR)
  x = solver.step(lambda x, t: 2 * t, jnp.float32(5), 0.9, 0.4, None)
  np.testing.assert_allclose(x, 5 + 0.4**2 - 0.9**2, rtol=1e-6)


def gaussian_velocity(path, mean, std):
  """E[dx/dt | x] for data N(mean, std^2)."""

  def velocity(x, t):
    alpha, sigma = path.alpha(t), path.sigma(t)
    away = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
    return path.velocity(mean + alpha * std**2 * away, sigma * away, t)

  return velocity


@pytest.mark.parametrize('path', ['linear', 'cosine'])
def test_euler_maruyama_reaches_the_data(path):
  mean, std, count = 2.0, 0.5, 20_000
  path, key = path_named(path), jax.random.key(0)
  velocity = gaussian_velocity(path, mean, std)
  x = integrate(
    lambda x, t, n: velocity(x, t),
    make_solver('euler_maruyama', path),
    jax.random.normal(key, (count,)),
    jnp.asarray(make_grid(400)),
    lambda n: jax.random.normal(jax.random.fold_in(key, n), (count,)),
  )
  # Four standard errors of each figure, and 2% of the variance for the steps.
  np.testing.assert_allclose(x.mean(), mean, atol=4 * std / count**0.5)
  tolerance = 4 * (2 / count) ** 0.5 + 0.02
  np.testing.assert_allclose(x.var(), std**2, rtol=tolerance)


def test_euler_maruyama_step():
  # x + h (v - t score) + sqrt(-2 t h) noise, by hand on the linear path:
  # score = -((1 - t) v + x) / t.
  x, v, noise, t, t_next = 0.7, -1.2, 0.9, 0.5, 0.3
  score = -((1 - t) * v + x) / t
  expected = x - 0.2 * (v - t * score) + (2 * t * 0.2) ** 0.5 * noise
  solver = make_solver('euler_maruyama', LINEAR)
  ours = solver.step(lambda x, t: v, jnp.float32(x), t, t_next, noise)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize('t', [0.04, 0.5])
def test_euler_maruyama_ends_without_noise(t):
  solver, x = make_solver('euler_maruyama', LINEAR), jnp.float32(0.7)
  with_noise, without, before = (
    solver.step(lambda x, t: -x, x, t, t_next, noise)
    for noise, t_next in ((1e6, 0.0), (0.0, 0.0), (1e6, 0.01))
  )
  assert with_noise == without
  assert abs(before - without) > 1e3


@pytest.mark.parametrize('name', ['euler', 'heun', 'euler_maruyama'])
def test_evaluations_are_those_of_a_step(name):
  solver = make_solver(name, LINEAR)
  for t_next in (0.5, 0.0):
    times = []

    def velocity(x, t, times=times):
      jax.debug.callback(lambda t: times.append(float(t)), t)
      return -x

    x = jax.jit(lambda x, t, v=velocity: solver.step(v, x, 0.75, t, x))(
      jnp.ones(2), t_next
    )
    jax.block_until_ready(x)
    jax.effects_barrier()
    assert len(times) == solver.evaluations(t_next)
    assert 0 not in times  # fields may be singular at the data


def test_unknown_solver():
  with pytest.raises(InputError, match=r"euler, heun.*mean 'heun'"):
    make_solver('huen', LINEAR)


@pytest.mark.parametrize('name', SOLVERS)
def test_solvers_are_hashable_and_equal_by_value(name):
  first, second = make_solver(name, LINEAR), make_solver(name, LINEAR)
  assert first == second and hash(first) == hash(second)
