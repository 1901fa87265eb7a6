"""Solvers have the right order, and are exact in cases with known solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from dit.path import path_named
from sample.grid import make_grid
from sample.registry import SOLVERS, make_solver
from sample.sampler import integrate
from sample.solvers import Evaluation, Interval

LINEAR = path_named('linear')


def solve(name, velocity, x, steps, path=LINEAR):
  grid = jnp.asarray(make_grid(steps))
  return integrate(along(velocity), make_solver(name, path), x, grid)[0]


def along(velocity):
  """Converts a function of (x, t) to a function for `integrate`."""
  return lambda x, t, n, memory: Evaluation(velocity(x, t))


def step(solver, velocity, x, t, t_next, noise=None):
  first = Evaluation(velocity(x, t))
  return solver.step(Interval(x, t, t_next, first, noise, velocity))


@pytest.mark.parametrize(('name', 'order', 'steps'), [
  ('euler', 1, [16, 32, 64]),
  ('heun', 2, [16, 32, 64]),
  ('heun:final_step=heun', 2, [16, 32, 64]),
  ('midpoint', 2, [16, 32, 64]),
  ('rk4', 4, [2, 4, 8]),  # For more steps, rounding errors dominate.
  ('ddim', 1, [16, 32, 64]),
])  # fmt: skip
def test_order(name, order, steps):
  # The solution of dx/dt = -x^2 (1 + 2t) is 1/x(t) = 1/x(1) + t + t^2 - 2.
  x = jnp.asarray([0.2, 0.3])
  exact = 1 / (1 / x - 2)
  errors = [
    jnp.abs(solve(name, lambda x, t: -(x**2) * (1 + 2 * t), x, n) - exact).max()
    for n in steps
  ]
  slopes = -np.diff(np.log2(np.asarray(errors)))
  np.testing.assert_allclose(slopes[-1], order, atol=0.05 * order + 0.1)
  np.testing.assert_allclose(slopes, order, atol=0.25 * order + 0.25)


ODE = ['euler', 'heun', 'heun:final_step=heun', 'midpoint', 'rk4', 'ddim',
       'dpm++']  # fmt: skip


@pytest.mark.parametrize('name', ODE)
@pytest.mark.parametrize('steps', [1, 5])
def test_exact_on_a_constant_field(name, steps):
  # If the velocity is noise - x0, trajectories are straight lines.
  noise, x0 = jnp.asarray([1.5, -2.0]), jnp.asarray([0.25, 3.0])
  x = solve(name, lambda x, t: noise - x0, noise, steps)
  np.testing.assert_allclose(x, x0, atol=1e-6)


def test_heun_is_exact_where_the_field_is_linear_in_time():
  # dx/dt is 2t. The step ends at 0.4, because a step to t = 0 would use Euler.
  solver = make_solver('heun', LINEAR)
  x = step(solver, lambda x, t: 2 * t, jnp.float32(5), 0.9, 0.4)
  np.testing.assert_allclose(x, 5 + 0.4**2 - 0.9**2, rtol=1e-6)


def test_ddim_is_euler_on_the_linear_path():
  x = jnp.linspace(-1, 1, 5)
  ddim, euler = (
    solve(name, lambda x, t: jnp.sin(3 * x) + t, x, 7)
    for name in ('ddim', 'euler')
  )
  np.testing.assert_allclose(ddim, euler, atol=1e-6)


def gaussian_velocity(path, mean, std):
  """Returns the exact velocity E[dx/dt | x] for data N(mean, std^2)."""

  def velocity(x, t):
    alpha, sigma = path.alpha(t), path.sigma(t)
    away = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
    return path.velocity(mean + alpha * std**2 * away, sigma * away, t)

  return velocity


@pytest.mark.parametrize(('path', 'solver'), [
  ('linear', 'euler_maruyama'),
  ('cosine', 'euler_maruyama'),
  ('vp', 'euler_maruyama:diffusion=sbdm'),
  ('linear', 'euler_maruyama:diffusion=decreasing:norm=0.7'),
  ('linear',
   'euler_maruyama:diffusion=increasing_decreasing:final_step=tweedie'),
  ('linear', 'heun_maruyama:diffusion=sigma:final_step=euler'),
  ('discrete', 'ddpm:variance=small'),
  ('discrete', 'ddim:eta=1'),
  ('discrete', 'ddim:eta=0.4'),
])  # fmt: skip
def test_sde_reaches_the_data(path, solver):
  mean, std, count = 2.0, 0.5, 20_000
  path, key = path_named(path), jax.random.key(0)
  velocity = gaussian_velocity(path, mean, std)
  x, _ = integrate(
    along(velocity),
    make_solver(solver, path),
    # On some paths, x still contains data at t = 1, so the mean of x is not 0.
    path.alpha(1.0) * mean + jax.random.normal(key, (count,)),
    jnp.asarray(make_grid(400)),
    lambda n: jax.random.normal(jax.random.fold_in(key, n), (count,)),
  )
  # Tolerances are four standard errors. For the variance, 2% is added for the
  # discretization error of 400 steps.
  np.testing.assert_allclose(x.mean(), mean, atol=4 * std / count**0.5)
  tolerance = 4 * (2 / count) ** 0.5 + 0.02
  np.testing.assert_allclose(x.var(), std**2, rtol=tolerance)


def test_euler_maruyama_step():
  # A step gives x + h (v - t score) + sqrt(-2 t h) noise. On the linear path,
  # the score is -((1 - t) v + x) / t.
  x, v, noise, t, t_next = 0.7, -1.2, 0.9, 0.5, 0.3
  score = -((1 - t) * v + x) / t
  expected = x - 0.2 * (v - t * score) + (2 * t * 0.2) ** 0.5 * noise
  solver = make_solver('euler_maruyama', LINEAR)
  ours = step(solver, lambda x, t: v, jnp.float32(x), t, t_next, noise)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize('t', [0.04, 0.5])
def test_euler_maruyama_ends_without_noise(t):
  solver, x = make_solver('euler_maruyama', LINEAR), jnp.float32(0.7)
  with_noise, without, before = (
    step(solver, lambda x, t: -x, x, t, t_next, noise)
    for noise, t_next in ((1e6, 0.0), (0.0, 0.0), (1e6, 0.01))
  )
  assert with_noise == without
  assert abs(before - without) > 1e3


@pytest.mark.parametrize(('last', 'expected'), [
  ('mean', lambda x, v, t, score: x - t * (v - t * score)),
  ('euler', lambda x, v, t, score: x - t * v),
  ('tweedie', lambda x, v, t, score: (x + t**2 * score) / (1 - t)),
])  # fmt: skip
@pytest.mark.parametrize('name', ['euler_maruyama', 'heun_maruyama'])
def test_last_step_of_the_sde(name, last, expected):
  solver = make_solver(f'{name}:final_step={last}', LINEAR)
  x, v, t = 0.7, -1.2, 0.04
  score = -((1 - t) * v + x) / t
  ours = step(solver, lambda x, t: jnp.float32(v), jnp.float32(x), t, 0.0, 1e6)
  np.testing.assert_allclose(ours, expected(x, v, t, score), rtol=1e-5)


def test_last_step_of_the_sde_with_noise():
  solver = make_solver('euler_maruyama:final_step=noise', LINEAR)
  ours = step(solver, lambda x, t: -x, jnp.float32(0.7), 0.04, 0.0, 1e6)
  assert ours > 1e4


@pytest.mark.parametrize(
  ('variance', 'power'), [(-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)]
)
def test_learned_variance_lies_between_two(variance, power):
  path, t, t_next = path_named('discrete'), 0.5, 0.4
  solver = make_solver('ddpm', path)
  beta = 1 - (path.alpha(t) / path.alpha(t_next)) ** 2
  small = beta * (path.sigma(t_next) / path.sigma(t)) ** 2

  def after(noise):
    out = Evaluation(jnp.float32(-0.7), jnp.float32(variance))
    return solver.step(Interval(jnp.float32(0.7), t, t_next, out, noise))

  expected = jnp.sqrt(beta**power * small ** (1 - power))
  np.testing.assert_allclose(after(1.0) - after(0.0), expected, rtol=1e-4)


@pytest.mark.parametrize('name', ['ddim:clip=true', 'ddim:clip=true:eta=0.5',
                                  'ddpm:clip=true:variance=small'])  # fmt: skip
def test_clipped_x0(name):
  path = path_named('discrete')
  solver = make_solver(name, path)
  v = path.velocity(jnp.float32(5.0), jnp.float32(0.3), 0.5)
  x = path.interpolate(jnp.float32(5.0), jnp.float32(0.3), 0.5)
  ours = step(solver, lambda x, t: v, x, jnp.float32(0.5), jnp.float32(0), 1e6)
  np.testing.assert_allclose(ours, 1.0, rtol=1e-5)


# TIMES also has two solvers whose `final_step` is not the default.
TIMES = [name for name in SOLVERS if not SOLVERS[name].adaptive]
TIMES += ['heun:final_step=heun', 'euler_maruyama:final_step=noise']


@pytest.mark.parametrize('name', TIMES)
def test_times_are_where_a_step_evaluates(name):
  solver = make_solver(name, path_named('discrete'))
  asked = []

  def velocity(x, t):
    jax.debug.callback(lambda t: asked.append(float(t)), t)
    return -x

  @jax.jit
  def advance(x, t):
    first = Evaluation(velocity(x, 0.75), x)
    at = Interval(x, 0.75, t, first, x, velocity)
    return solver.advance(at, solver.init(x))[0]

  for t_next in (0.5, 0.0):
    asked.clear()
    jax.block_until_ready(advance(jnp.ones(2), t_next))
    jax.effects_barrier()
    expected = sorted(solver.times(0.75, t_next))
    np.testing.assert_allclose(sorted(asked), expected, atol=1e-6)
    if name not in ('heun:final_step=heun', 'rk4'):
      assert 0 not in asked  # Some fields are singular at t = 0.


@pytest.mark.parametrize(('text', 'message'), [
  ('huen', r"euler, heun.*mean 'heun'"),
  ('heun:final_stpe=heun', "it has final_step. Did you mean 'final_step'"),
  ('euler:eta=1', 'it has none'),
  ('heun:final_step=none', 'expected one of euler, heun'),
  ('ddim:eta=much', 'expected a number'),
  ('ddim:eta=2', 'eta is 2.0, expected a number from 0 to 1'),
  ('ddim:eta=nan', 'eta is nan'),
  ('ddim:eta=1:eta=1', 'sets eta twice'),
  ('ddpm:clip=1', 'expected true or false'),
  ('ddpm:variance=large', 'expected one of learned, small'),
  ('euler_maruyama:norm=-1', 'norm is -1'),
  ('euler_maruyama:norm=inf', 'norm is inf'),
  ('euler_maruyama:diffusion=sigmoid', "Did you mean 'sigma'"),
  ('heun_maruyama:final_step=noise', 'expected one of mean, euler, tweedie'),
])  # fmt: skip
def test_text_that_is_no_solver(text, message):
  with pytest.raises(InputError, match=message):
    make_solver(text, path_named('discrete'))


@pytest.mark.parametrize(
  'text',
  ['ddpm', 'ddim:eta=0.5', 'euler_maruyama:diffusion=sbdm',
   'heun_maruyama:diffusion=sbdm'],
)  # fmt: skip
def test_discrete_solvers_need_their_path(text):
  with pytest.raises(InputError, match='variance preserving'):
    make_solver(text, LINEAR)


@pytest.mark.parametrize('name', SOLVERS)
def test_solvers_are_hashable_and_equal_by_value(name):
  first, second = (make_solver(name, path_named('discrete')) for _ in 'ab')
  assert first == second and hash(first) == hash(second)
