"""Tests endpoints, derivatives and conversions of all paths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from dit.path import PATHS, VariancePreserving, path_named

TIMES = jnp.linspace(0.05, 0.95, 7)


@pytest.fixture(params=PATHS)
def path(request):
  return path_named(request.param)


@pytest.fixture
def states():
  keys = jax.random.split(jax.random.key(0))
  return [jax.random.normal(key, (len(TIMES), 4, 4, 3)) for key in keys]


def close(ours, expected, atol=2e-5):
  np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=atol)


# On paths `vp` and `discrete`, alpha at t = 1 has these values instead of 0.
LEFT = {'vp': 6.571e-3, 'discrete': 6.353e-3}


def test_endpoints(path, request):
  ends = [path.alpha(0.0), path.sigma(1.0), path.alpha(1.0), path.sigma(0.0)]
  left = LEFT.get(request.node.callspec.params['path'], 0)
  expected = [1, (1 - left**2) ** 0.5, left, 0]
  close(jnp.stack([*map(jnp.asarray, ends)]), expected, atol=1e-5)


@pytest.mark.parametrize('name', ['alpha', 'sigma'])
def test_derivatives(path, name):
  ones = jnp.ones_like(TIMES)
  _, expected = jax.jvp(getattr(path, name), (TIMES,), (ones,))
  close(getattr(path, f'd_{name}')(TIMES), expected)


def test_velocity_is_the_derivative_of_interpolate(path, states):
  at, ones = functools.partial(path.interpolate, *states), jnp.ones_like(TIMES)
  _, expected = jax.jvp(at, (TIMES,), (ones,))
  close(path.velocity(*states, TIMES), expected)


@pytest.mark.parametrize('times', [TIMES, jnp.asarray([0.0, 1.0])])
def test_velocity_implies_x0_and_noise(path, states, times):
  if isinstance(path, VariancePreserving) and times[0] == 0:
    pytest.skip('its velocity is infinite at t = 0')
  x0, noise = (state[: len(times)] for state in states)
  x = path.interpolate(x0, noise, times)
  velocity = path.velocity(x0, noise, times)
  close(path.x0_from_velocity(x, velocity, times), x0)
  close(path.noise_from_velocity(x, velocity, times), noise)


def test_velocity_implies_the_score(path, states):
  x0, noise = states
  x = path.interpolate(x0, noise, TIMES)
  velocity = path.velocity(x0, noise, TIMES)
  sigma = path.sigma(TIMES)[:, None, None, None]
  # The density of x is N(alpha x0, sigma^2), so the score of x is known.
  expected = (path.interpolate(x0, 0 * noise, TIMES) - x) / sigma**2
  close(path.score_from_velocity(x, velocity, TIMES), expected, atol=1e-4)


def test_conversions_invert(path, states):
  x, velocity = states  # The conversions hold for any arrays.
  there, back = path.noise_from_velocity, path.velocity_from_noise
  close(back(x, there(x, velocity, TIMES), TIMES), velocity, atol=1e-4)
  close(there(x, back(x, velocity, TIMES), TIMES), velocity, atol=1e-4)


@pytest.mark.parametrize('name', [
  'interpolate', 'velocity', 'x0_from_velocity', 'noise_from_velocity',
  'score_from_velocity', 'velocity_from_noise',
])  # fmt: skip
def test_scalar_and_batched_times_agree(path, states, name):
  function = getattr(path, name)
  batched = function(*states, jnp.full(len(TIMES), 0.3))
  close(function(*states, 0.3), batched, atol=1e-6)
  close(function(*states, jnp.float32(0.3)), batched, atol=1e-6)


def test_batched_times_go_with_their_rows(path, states):
  together = path.interpolate(*states, TIMES)
  for i, t in enumerate(TIMES):
    close(together[i], path.interpolate(*(s[i] for s in states), t))


def test_time_of_ratio(path):
  ratio = jnp.asarray([0.0, 0.01, 0.5, 1.0, 3.0, 50.0])
  t = path.time_of_ratio(ratio)
  assert ((t >= 0) & (t <= 1)).all()
  close(path.sigma(t) / path.alpha(t), ratio)


def test_forward_diffusion(path):
  # The definition of g is d(sigma^2)/dt = 2 (d_alpha / alpha) sigma^2 + g^2.
  growth = 2 * path.sigma(TIMES) * path.d_sigma(TIMES)
  drift = path.d_alpha(TIMES) / path.alpha(TIMES)
  expected = growth / 2 - drift * path.sigma(TIMES) ** 2
  close(path.forward_diffusion(TIMES), expected)


def test_unknown_path():
  with pytest.raises(InputError, match=r"linear, cosine.*mean 'linear'"):
    path_named('liner')
