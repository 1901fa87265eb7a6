"""Trajectories are more exact with a float64 state. Images are the same."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from dit.types import ClassConditional, DenoiserOutput
from guidance import Guidance, parse
from sample import generate, sampler
from sample.grid import make_grid
from sample.registry import make_solver
from sample.solvers import OneStep

SHAPE = (4, 4, 3)
DTYPES = ('float32', 'float64')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Field(ClassConditional):
  """A float32 network with velocity sin(3 x + label) + t."""

  depth, num_taps, num_classes, multiply_adds = 4, 0, 10, 1
  null_label, learned_variance = True, False

  def __call__(self, x, t, label, sub=None):
    x, t, label = (array.astype(jnp.float32) for array in (x, t, label))
    t, label = (array[:, None, None, None] for array in (t, label))
    return DenoiserOutput(jnp.sin(3 * x + label) + t)


def sample(dtype, *, solver, steps, guidance=None):
  index = np.arange(3, dtype=np.int32)
  with jax.enable_x64(dtype == 'float64'):
    x, _ = sampler.sample(
      Field(), guidance or Guidance(), index, index,
      jnp.asarray(make_grid(steps)), jnp.uint32(7),
      sampler.Integration(solver, SHAPE, dtype=dtype),
    )  # fmt: skip
  return np.asarray(x)


@dataclasses.dataclass(frozen=True)
class Sum(OneStep):
  """A solver that adds each step's noise to the state."""

  stochastic = True

  def step(self, at):
    return at.x + at.noise


@dataclasses.dataclass(frozen=True)
class Still(OneStep):
  def step(self, at):
    return at.x


@pytest.mark.parametrize('steps', [1, 4])
def test_noise_is_the_same(steps):
  single, double = (sample(d, solver=Sum(), steps=steps) for d in DTYPES)
  assert single.dtype == np.float32 and double.dtype == np.float64
  np.testing.assert_allclose(single, double, atol=1e-6)
  # A float64 state is the exact sum of float32 noise values.
  if steps == 1:
    np.testing.assert_array_equal(single, np.float32(double))
  assert np.abs(double).max() > 1


@pytest.mark.slow
def test_choices_are_the_same():
  index, drawn = np.arange(5, dtype=np.int32), []
  for dtype in DTYPES:
    with jax.enable_x64(dtype == 'float64'):
      guidance = parse('icg:2,s2:1.5:masks=2')
      drawn.append(sampler.draw_steps(guidance, Field(), index, index, 7, 6))
  jax.tree.map(np.testing.assert_array_equal, *drawn)
  assert len(jax.tree.leaves(drawn[0])) == 2


def test_trajectory_is_closer_to_the_exact_one():
  euler = make_solver('euler', path_named('linear'))
  single, double = (sample(d, solver=euler, steps=1000) for d in DTYPES)
  start = sample('float64', solver=Still(), steps=1)
  exact, grid = start, make_grid(1000)
  label = np.arange(3)[:, None, None, None]
  for t, t_next in itertools.pairwise(grid):
    exact = exact + (t_next - t) * (np.sin(3 * exact + label) + t)
  errors = [np.abs(x - exact).max() for x in (single, double)]
  assert errors[1] < errors[0] / 3
  assert errors[0] < 1e-4


@pytest.mark.parametrize(('text', 'solver'), [
  ('apg:2:momentum=-0.5:norm=5', 'heun'),
  pytest.param('icg:1.5', 'euler_maruyama', marks=pytest.mark.slow),
  pytest.param('tcfg:2', 'dpm++', marks=pytest.mark.slow),
])  # fmt: skip
def test_every_part_runs_in_either(text, solver):
  solver = make_solver(solver, path_named('linear'))
  single, double = (
    sample(d, solver=solver, steps=5, guidance=parse(text)) for d in DTYPES
  )
  assert single.dtype == np.float32 and double.dtype == np.float64
  np.testing.assert_allclose(single, double, atol=1e-4)
  assert (single != double).any()


def test_images_are_the_same():
  mesh = make_mesh(MeshConfig(), jax.devices()[:2])
  labels = generate.plan_labels('balanced', 4, 10, seed=0)
  images, latents = [], []

  def record(*args, sample=sampler.sample, **kwargs):
    latents.append(sample(*args, **kwargs)[0])
    return latents[-1], None

  for dtype in DTYPES:
    config = generate.SampleConfig(
      solver='euler', steps=4, spacing='cosine', shift=1.0, last_step_size=0.0,
      respacing='', scales_at='step', state_dtype=dtype, batch_size=4,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(sampler, 'sample', record)
      drawing = generate.Sampler(
        Field(), config, path_named('linear'), (8, 8, 3), mesh
      )
      image, nfe, _ = drawing.images(parse('cfg:1.5@0.2-1'), labels, seed=1)
    assert image.dtype == np.uint8 and nfe == 8
    images.append(image.astype(int))
  assert not jax.config.jax_enable_x64  # Only `sample` enables float64.
  single, double = map(np.asarray, latents)
  assert (single.dtype, double.dtype) == (np.float32, np.float64)
  np.testing.assert_allclose(single, double, atol=1e-4)
  difference = np.abs(images[0] - images[1])
  assert difference.max() <= 1 and (difference > 0).mean() < 2e-3
