"""DPM-Solver++(2M) has order 2, and matches the paper's algorithm in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.path import PATHS, path_named
from sample.ddpm import discrete_grid
from sample.grid import make_grid
from sample.registry import make_solver
from sample.sampler import integrate
from sample.solvers import Evaluation

MEAN, STD = 2.0, 0.5
X = np.linspace(-2, 2, 7)


def velocity(path, x, t):
  """Returns the exact velocity E[dx/dt | x] for data N(MEAN, STD^2)."""
  alpha, sigma = path.alpha(t), path.sigma(t)
  away = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
  return path.velocity(MEAN + alpha * STD**2 * away, sigma * away, t)


def standard(path, x, t):
  """Standardizes x at time t. The result is constant on exact trajectories."""
  alpha, sigma = path.alpha(t), path.sigma(t)
  return (x - alpha * MEAN) / np.sqrt(alpha**2 * STD**2 + sigma**2)


@functools.partial(jax.jit, static_argnums=(0, 1))
def solve(name, path, x, grid):
  def evaluate(x, t, n, memory):
    return Evaluation(velocity(path, x, t))

  return integrate(evaluate, make_solver(name, path), x, grid)[0]


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize('name', ['linear', slow('cosine'), slow('vp')])
def test_order(name):
  path, errors = path_named(name), {'dpm++': [], 'ddim': []}
  with jax.enable_x64(True):
    for steps in (16, 32, 64, 128):
      grid = np.linspace(0.9, 0.4, steps + 1)
      for solver in errors:
        x = solve(solver, path, jnp.asarray(X), jnp.asarray(grid))
        kept = standard(path, x, 0.4) - standard(path, X, 0.9)
        errors[solver].append(np.abs(kept).max())
  slopes = -np.diff(np.log2(errors['dpm++']))
  np.testing.assert_allclose(slopes[-1], 2, atol=0.05)
  np.testing.assert_allclose(slopes, 2, atol=0.1)
  np.testing.assert_allclose(-np.diff(np.log2(errors['ddim'])), 1, atol=0.15)
  assert errors['dpm++'][-1] < errors['ddim'][-1] / 20


@pytest.mark.parametrize(
  'name', ['discrete', slow('linear'), slow('cosine'), slow('vp')]
)
def test_from_noise_to_data(name):
  path, steps = path_named(name), jnp.asarray(make_grid(64))
  x = jnp.float32(X)
  exact = MEAN + STD * standard(path, X, 1.0)
  ours, ddim = (
    np.abs(solve(solver, path, x, steps) - exact).max()
    for solver in ('dpm++', 'ddim')
  )
  assert ours < 0.005 < 0.02 < ddim


def multistep(path, x, grid):
  """Runs the paper's algorithm 2, where lambda = log(alpha / sigma)."""
  alpha, sigma = (np.asarray(f(grid)) for f in (path.alpha, path.sigma))
  alpha = np.where(alpha < 1e-12, 0, alpha)  # In floats, cos(pi / 2) > 0.
  with np.errstate(divide='ignore'):
    h = np.diff(np.log(alpha) - np.log(sigma))
  before = None
  for n, t in enumerate(grid[:-1]):
    x0 = np.asarray(path.x0_from_velocity(x, velocity(path, x, t), t))
    d = x0
    if n > 0 and np.isfinite(h[n - 1 : n + 1]).all():
      r = h[n - 1] / h[n]
      d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
    x = sigma[n + 1] / sigma[n] * x - alpha[n + 1] * np.expm1(-h[n]) * d
    before = x0
  return x


SPACINGS = ('uniform', 'quadratic', '1,0.7,0.65,0.2,0')
CASES = {('linear', SPACINGS[1]), ('discrete', SPACINGS[0]),
         ('cosine', SPACINGS[2])}  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'spacing'),
  [
    case if case in CASES else slow(*case)
    for case in itertools.product(PATHS, SPACINGS)
  ],
)
def test_in_numpy(name, spacing):
  path, grid = path_named(name), make_grid(9, spacing=spacing)
  with jax.enable_x64(True):
    ours = solve('dpm++', path, jnp.asarray(X), jnp.asarray(grid))
    theirs = multistep(path, X, grid)
  np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
  ours = solve('dpm++', path, jnp.float32(X), jnp.float32(grid))
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
  'grid', [make_grid(4)[:2], discrete_grid('ddim4')[:2], [0.5, 0.4]]
)
def test_first_step_is_that_of_ddim(grid):
  path, x = path_named('discrete'), jnp.float32(X)
  first, second = (
    solve(name, path, x, jnp.asarray(grid)) for name in ('dpm++', 'ddim')
  )
  np.testing.assert_allclose(first, second, atol=1e-5)
