"""The sampler keeps the guidance state from step to step, and runs dopri5."""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.path import path_named
from dit.types import ClassConditional, DenoiserOutput
from guidance import Step, parse
from sample import sampler
from sample.ddpm import discrete_grid
from sample.grid import make_grid
from sample.registry import make_solver

SHAPE, SEED = (4, 4, 2), 5
INDEX = np.arange(3, dtype=np.int32)
LINEAR = path_named('linear')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Field(ClassConditional):
  """A network that reports the time and sub-networks of each call."""

  report: Callable | None = dataclasses.field(
    default=None, metadata={'static': True}
  )
  depth, num_taps, num_classes, multiply_adds = 8, 0, 10, 1
  null_label, learned_variance = True, False

  def __call__(self, x, t, label, sub=None):
    if self.report is not None:
      keep = jnp.ones((0, 8), bool) if sub is None else sub.keep
      jax.debug.callback(self.report, t[0], keep)
    out = self.one(x, t, label, 8)
    if sub is None:
      return out
    rows = [array[:: sub.every] for array in (x, t, label)]
    subs = tuple(self.one(*rows, keep.sum()) for keep in sub.keep)
    return dataclasses.replace(out, sub=subs)

  def one(self, x, t, label, kept):
    t, label = (array[:, None, None, None] for array in (t, label))
    return DenoiserOutput(jnp.sin(2 * x + label) * kept / 8 - x * t)


def sample(text, solver, grid, *, path=LINEAR, denoiser=None):
  how = sampler.Integration(make_solver(solver, path), SHAPE, path)
  return sampler.sample(denoiser or Field(), parse(text), INDEX, INDEX,
                        jnp.asarray(grid), SEED, how)[0]  # fmt: skip


def start():
  keys = sampler.image_keys(SEED, INDEX)
  return jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)


def test_momentum_is_updated_once_in_a_step():
  grid, text = make_grid(4), 'apg:3:momentum=-0.6:norm=2'
  guidance, x = parse(text), start()
  memory = guidance.init(x)

  @jax.jit
  def predict(x, t, at, memory):
    step = Step(at, (None,))
    return guidance.predict(Field(), x, t, INDEX, step, memory)

  for t, t_next in itertools.pairwise(grid):
    first = predict(x, t, t, memory)
    euler = x + (t_next - t) * first.velocity
    if t_next > 0:
      second = predict(euler, t_next, t, memory)
      slope = (first.velocity + second.velocity) / 2
      euler = x + (t_next - t) * slope
    x, memory = euler, first.memory
  ours = sample(text, 'heun', grid)
  np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-4)
  without = sample('apg:3:norm=2', 'heun', grid)
  assert jnp.abs(without - ours).max() > 0.01


@pytest.mark.parametrize('solver', ['heun', 'midpoint'])
def test_one_mask_serves_all_stages_of_a_step(solver):
  seen = []
  denoiser = Field(lambda t, keep: seen.append((float(t), keep)))
  x = sample('s2:1.5:skip=2', solver, make_grid(5), denoiser=denoiser)
  jax.block_until_ready(x)
  jax.effects_barrier()
  (masks,) = sampler.draw_steps(
    parse('s2:1.5:skip=2'), Field(), INDEX, INDEX, SEED, 5
  )
  assert len(np.unique(masks, axis=0)) > 2
  solver, grid, expected = make_solver(solver, LINEAR), make_grid(5), []
  for mask, t, t_next in zip(masks, grid[:-1], grid[1:], strict=True):
    expected += [(time, mask) for time in solver.times(t, t_next)]

  def ordered(pairs):
    return sorted((round(t, 4), np.asarray(m).tolist()) for t, m in pairs)

  assert ordered(seen) == ordered(expected)


def integrate_without_rest(solver, path, grid, *noise):
  """Integrates with CFG-Zero* from the third grid point to the last."""
  guidance = parse('cfg_zero:2:zero_steps=0')

  def evaluate(x, t, n, memory):
    return guidance.predict(Field(), x, t, INDEX, Step(t, (None,)), memory)

  solver, times = make_solver(solver, path), jnp.asarray(grid[2:])
  return sampler.integrate(
    evaluate, solver, start(), times, *noise, memory=((),)
  )[0]


@pytest.mark.parametrize(
  ('solver', 'path'),
  [('heun', 'linear'), ('dpm++', 'cosine'),
   *(pytest.param(*case, marks=pytest.mark.slow) for case in
     [('euler', 'linear'), ('ddim', 'cosine'), ('dpm++', 'linear')])],
)  # fmt: skip
def test_zero_steps_leave_x(solver, path):
  path, grid = path_named(path), make_grid(5)
  ours = sample('cfg_zero:2:zero_steps=2', solver, grid, path=path)
  expected = integrate_without_rest(solver, path, grid)
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
  whole = sample('cfg_zero:2:zero_steps=0', solver, grid, path=path)
  assert jnp.abs(ours - whole).max() > 0.01


def test_noise_is_that_of_its_step_after_zero_steps():
  grid = make_grid(5, last_step_size=0.04)
  ours = sample('cfg_zero:2:zero_steps=2', 'euler_maruyama', grid)
  keys = sampler.image_keys(SEED, INDEX)

  def noise(n):
    folded = jax.vmap(jax.random.fold_in, (0, None))(keys, n + 2)
    return jax.vmap(lambda key: jax.random.normal(key, SHAPE))(folded)

  expected = integrate_without_rest('euler_maruyama', LINEAR, grid, noise)
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Still(Field):
  def one(self, x, t, label, kept):
    return DenoiserOutput(jnp.zeros_like(x))


def test_a_grid_that_starts_below_one_starts_from_less_noise():
  grid = make_grid(6, spacing='edm')
  x = sample('none', 'euler', grid, denoiser=Still())
  np.testing.assert_allclose(x, 80 / 81 * start(), rtol=1e-6)
  x = sample('none', 'euler', make_grid(6), denoiser=Still())
  np.testing.assert_array_equal(x, start())
  # A respaced DiT schedule may start below t = 1, but still starts from noise.
  path = path_named('discrete')
  x = sample('none', 'euler', discrete_grid('2,1'), path=path, denoiser=Still())
  np.testing.assert_array_equal(x, start())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decay(Field):
  """A network with velocity -x. From t = 1 to 0, x grows by a factor of e."""

  def one(self, x, t, label, kept):
    return DenoiserOutput(-x)


def test_dopri5_through_the_sampler():
  x, spent = sampler.sample(
    Decay(), parse('none'), INDEX, INDEX, jnp.asarray(make_grid(3)), SEED,
    sampler.Integration(
      make_solver('dopri5:rtol=1e-5:atol=1e-8', LINEAR), SHAPE
    ),
  )  # fmt: skip
  np.testing.assert_allclose(x, np.e * start(), rtol=1e-4, atol=1e-4)
  assert (spent - 2) % 6 == 0
  assert 20 <= spent <= 150
