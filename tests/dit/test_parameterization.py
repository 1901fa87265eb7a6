"""Tests conventions against raw networks with converted times and outputs."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_close

from dit import model, parameterization
from dit.config import DiTConfig
from dit.path import path_named
from dit.types import SubNetworks
from sample.ddpm import discrete_grid

CONFIG = DiTConfig(size=4, channels=3, num_classes=10, patch=2, depth=4,
                   width=16, num_heads=2, taps=(1, 3),
                   learned_variance=True)  # fmt: skip
PATH = path_named('discrete')
MASKS = jnp.asarray([[1, 0, 1, 1], [1, 1, 0, 0]], bool)
CONVENTIONS = ('velocity', 'reversed', 'noise', 'data')
REVERSED = pytest.param('reversed', marks=pytest.mark.slow)
STEPS = np.arange(1000)

apply = jax.jit(lambda denoiser, *args: denoiser(*args))
apply_kept = jax.jit(lambda denoiser, keep, *args: denoiser(*args, keep=keep))


@functools.cache
def params():
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32),
    model.shapes(CONFIG),
  )


def bind(name, **changes):
  config = dataclasses.replace(CONFIG, convention=name, **changes)
  return model.bind(config, params())


@pytest.fixture
def batch():
  x = jax.random.normal(jax.random.key(2), (6, 4, 4, 3))
  t = jnp.asarray([0.9, 0.0125, 0.35, 0.8, 0.5, 0.04])
  return x, t, jnp.asarray([0, 3, 9, 3, 5, 10])


def by_hand(name, x, t, label, *sub):
  """Converts times and outputs of the raw network for the convention `name`."""
  if name == 'reversed':
    out = apply(bind('velocity'), x, 1 - t, label, *sub)
    return jax.tree.map(jnp.negative, out)
  if name == 'data':
    out = apply(bind('velocity'), x, t, label, *sub)

    def divide(x0):
      every = len(x) // len(x0)
      times = jnp.maximum(t[::every], 0.05)[:, None, None, None]
      return (x[::every] - x0) / times

    return jax.tree.map(divide, out)
  out = apply(bind('velocity'), x, 1000 * t - 1, label, *sub)

  def translate(noise):
    every = len(x) // len(noise)
    return PATH.velocity_from_noise(x[::every], noise, t[::every])

  return jax.tree.map(translate, out)


def close(ours, expected, atol=1e-4):
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  assert_close(ours, expected, rtol=1e-4, atol=atol)


def without_variance(out):
  subs = tuple(map(without_variance, out.sub))
  return dataclasses.replace(out, variance=None, sub=subs)


@pytest.mark.parametrize('name', ['reversed', 'noise', 'data'])
def test_outputs_and_taps_are_translated(name, batch):
  ours = apply(bind(name), *batch)
  assert len(ours.intermediate) == 2
  close(without_variance(ours), by_hand(name, *batch))


@pytest.mark.slow
@pytest.mark.parametrize('name', [REVERSED, 'noise', 'data'])
def test_sub_networks_are_translated_at_their_own_times(name, batch):
  sub = SubNetworks(MASKS, every=2)
  ours = apply(bind(name), *batch, sub)
  close(without_variance(ours), by_hand(name, *batch, sub))
  if name != 'noise':
    return
  part = [array[::2] for array in batch]
  for keep, out in zip(MASKS, ours.sub, strict=True):
    close(out, apply_kept(bind(name), keep, *part))


def test_conventions_differ(batch):
  outs = [apply(bind(name), *batch).velocity for name in CONVENTIONS]
  for a, b in itertools.combinations(range(len(outs)), 2):
    assert (jnp.abs(outs[a] - outs[b]).max((1, 2, 3)) > 1e-2).all()


def half(params, which):
  """Keeps the first or the second half of each head's output channels."""

  def cut(leaf):
    outputs = leaf.reshape(*leaf.shape[:-1], 4, 2, 3)[..., which, :]
    return outputs.reshape(*leaf.shape[:-1], 12)

  heads = {}
  for name in ('head', 'tap_heads'):
    proj = jax.tree.map(cut, params[name]['proj'])
    heads[name] = {**params[name], 'proj': proj}
  return {**params, **heads}


@pytest.mark.parametrize('name', ['velocity', REVERSED, 'noise'])
def test_velocity_comes_before_the_variance(name, batch):
  config = dataclasses.replace(CONFIG, learned_variance=False, convention=name)
  ours = apply(bind(name), *batch)
  first = apply(model.bind(config, half(params(), 0)), *batch)
  assert first.variance is None
  close(without_variance(ours), first)
  if name != 'noise':
    return
  # The variance output is not converted.
  config = dataclasses.replace(config, convention='velocity')
  second = model.bind(config, half(params(), 1))
  steps = 1000 * batch[1] - 1
  close(ours.variance, apply(second, batch[0], steps, batch[2]).velocity)


@pytest.mark.parametrize('name', CONVENTIONS)
@pytest.mark.parametrize('learned_variance', [False, True])
def test_only_networks_of_noise_expose_their_variance(
  name, learned_variance, batch
):
  changes = {'learned_variance': learned_variance, 'convention': name}
  config = dataclasses.replace(CONFIG, **changes)
  denoiser = model.bind(config, model.shapes(config))
  out = jax.eval_shape(apply, denoiser, *batch, SubNetworks(MASKS, every=3))
  expected = learned_variance and name == 'noise'
  assert denoiser.learned_variance == expected
  for part, rows in ((out, 6), (out.sub[0], 2), (out.sub[1], 2)):
    assert (part.variance is not None) == expected
    assert part.velocity.shape == (rows, 4, 4, 3)
    if expected:
      assert part.variance.shape == (rows, 4, 4, 3)


def step_of(t):
  return np.asarray(parameterization.network_time('noise', jnp.asarray(t)))


@pytest.mark.parametrize('times', [
  np.float32((STEPS + 1) / 1000),
  np.arange(1, 1001, dtype=np.float32) / np.float32(1000),
  np.arange(1, 1001, dtype=np.float32) * np.float32(1e-3),
  np.linspace(0.001, 1, 1000, dtype=np.float32),
  np.nextafter(np.float32((STEPS + 1) / 1000), np.float32(0)),
  np.nextafter(np.float32((STEPS + 1) / 1000), np.float32(2)),
  discrete_grid('1000')[-2::-1].astype(np.float32),
])  # fmt: skip
def test_steps_are_hit_exactly(times):
  steps = step_of(times)
  assert steps.dtype == np.float32
  np.testing.assert_array_equal(steps, STEPS)
  compiled = jax.jit(functools.partial(parameterization.network_time, 'noise'))
  np.testing.assert_array_equal(compiled(times), STEPS)


def test_steps_are_hit_exactly_in_float64():
  with jax.enable_x64(True):
    steps = step_of((STEPS + 1) / 1000)
    assert steps.dtype == np.float64
    np.testing.assert_array_equal(steps, STEPS)


def test_time_is_continuous_between_the_steps():
  t = np.linspace(0.001, 1, 99_901, dtype=np.float32)
  steps = step_of(t)
  assert (np.diff(steps) >= 0).all()
  np.testing.assert_allclose(steps, 1000 * t.astype(float) - 1, atol=1.1e-3)
  middle = (STEPS + 1.5) / 1000
  np.testing.assert_allclose(step_of(middle), STEPS + 0.5, atol=1e-4)


def test_times_below_the_first_step_are_taken_for_it(batch):
  x, _, label = batch
  t = jnp.asarray([0, 1e-30, 1e-6, 5e-4, 9.99e-4, 1e-3])
  np.testing.assert_array_equal(step_of(t), 0)
  denoiser, first = bind('noise'), jnp.full(6, 1e-3)
  out, expected = (apply(denoiser, x, times, label) for times in (t, first))
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
  close(out, expected)


@pytest.mark.parametrize('name', ['velocity', 'reversed'])
def test_other_times_are_not_clamped(name):
  t = jnp.asarray([0, 1e-6, 5e-4, 0.3, 1])
  ours = parameterization.network_time(name, t)
  expected = {'velocity': t, 'reversed': 1 - t}[name]
  np.testing.assert_array_equal(ours, expected)


def test_noise_comes_back_from_the_velocity(batch):
  x, _, _ = batch
  noise = jax.random.normal(jax.random.key(3), x.shape)
  t = jnp.asarray([0.001, 0.0015, 0.1, 0.5, 0.9, 1.0])
  velocity = parameterization.velocity('noise', noise, x, t)
  assert jnp.isfinite(velocity).all()
  close(PATH.noise_from_velocity(x, velocity, t), noise)
  # A network that predicts the true noise gives the velocity of the path.
  x0 = jax.random.normal(jax.random.key(4), x.shape)
  at = PATH.interpolate(x0, noise, t)
  ours = parameterization.velocity('noise', noise, at, t)
  close(ours[:-1], PATH.velocity(x0, noise, t)[:-1], atol=3e-3)


@pytest.mark.parametrize('t', [0.05, 0.3, 0.9, 1.0])
def test_best_data_prediction_is_the_best_velocity(t):
  """E[x0 | x] gives E[noise - x0 | x] for Gaussian data."""
  mean, std = 0.7, 0.4
  x = np.random.default_rng(0).normal(size=(5, 4, 4, 3))
  gap = x - (1 - t) * mean
  variance = ((1 - t) * std) ** 2 + t**2
  x0 = mean + (1 - t) * std**2 / variance * gap
  noise = t / variance * gap
  ours = parameterization.velocity(
    'data', jnp.asarray(x0), jnp.asarray(x), jnp.full(5, t), 0.05
  )
  np.testing.assert_allclose(ours, noise - x0, rtol=1e-4, atol=1e-5)
