"""The declared NFE (number of function evaluations) equals the counted NFE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import Counting, counted

from dit.path import path_named
from guidance import parse
from sample import sampler
from sample.grid import make_grid
from sample.registry import make_solver

SHAPE, BATCH, SEED = (2, 2, 1), 4, 11
SLOW = pytest.mark.slow
STEPS = 6  # t = 1, 5/6, 4/6, 3/6, 2/6 and 1/6


def measure(text, solver_name, scales_at='step', grid=None, shape=SHAPE,
            dtype='float32'):  # fmt: skip
  """Samples images, and returns the declared and the counted NFE per image."""
  path = path_named('linear')
  solver = make_solver(solver_name, path)
  grid = make_grid(STEPS) if grid is None else grid
  how = sampler.Integration(solver, shape, path, scales_at, dtype)

  def run(denoiser, guidance):
    with jax.enable_x64(dtype == 'float64'):
      index = jnp.arange(BATCH)
      x, spent = sampler.sample(
        denoiser, guidance, index, index, jnp.asarray(grid), SEED, how
      )
    if spent is None:
      spent = sampler.nfe(guidance, denoiser, grid, SEED, how)
    return np.asarray(x), float(spent)

  (_, declared), passes = counted(text, run, BATCH)
  return declared, passes


# Per case: guidance, solver and expected NFE (None for a random NFE).
CASES = [
  ('none', 'heun', 11),
  ('ig:1.5,cfg:1.5', 'heun', 22),
  # CFG is on in the steps at t = 4/6 and 3/6, for both evaluations of a step.
  ('cfg:1.5@0.4-0.7', 'heun', 15),
  # The interval includes both ends, so CFG is on at t = 1 and 1/2.
  ('cfg:1.5@0.5-1', 'euler', 10),
  ('ig:1.5,s2:1.5:skip=2@0-0.5,cfg:1.5@0.4-0.7', 'heun', None),
  ('cfg:1.5', 'rk4', 48),
  ('none', 'midpoint', 12),
  ('cfg:1.5@0.4-0.7', 'heun_maruyama', 15),
  # APG, TCFG and ICG need no extra pass at scale 1.
  ('apg:1:momentum=-0.5@0.4-0.7', 'heun', 11),
  ('apg:2:momentum=-0.5@0.4-0.7', 'heun', 15),
  ('tcfg:1,rescale:0.7', 'dpm++', 6),
  ('tcfg:2,rescale:0.7', 'dpm++', 12),
  ('icg:2:schedule=linear', 'euler', 11),  # The scale is 1 at t = 1.
  # FDG needs one extra pass if the scale of at least one band is not 1.
  ('fdg:1:low=2@0-0.5', 'euler', 9),
  # While CFG-Zero* is on, the first `zero_steps` steps need no pass.
  ('cfg_zero:1:zero_steps=2', 'heun', 11),
  ('cfg_zero:2:zero_steps=2', 'heun', 4 + 4 + 4 + 2),
  ('cfg_zero:2:zero_steps=2@0.9-1', 'euler', 5),
  ('cfg++:0.5@0.4-0.7', 'ddim', 8),
  # SLG runs blocks 3 and 5 of 6 again. The guide of `auto` costs 1/4 pass.
  ('cfg:1,slg:2:blocks=2+4@0-0.5', 'euler', 6 + 3 * 2 / 6),
  ('cfg:2,slg:2:blocks=2+4@0-0.5', 'euler', 12 + 3 * 2 / 6),
  ('ig:1,cfg:1,auto:2@0.4-0.7', 'euler', 6.5),
]
SLOW_CASES = [
  ('none', 'euler', 6),
  ('cfg:1,s2:1', 'heun', 11),
  ('s2:1.5:skip=3@0.4-0.7', 'euler_maruyama', None),
  # CFG-Zero* skips the step at t = 1, although the scale is 1 at t = 1.
  ('cfg_zero:2:schedule=linear', 'euler', 10),
  ('ig:1.4,cfg:2,auto:2@0.4-0.7', 'euler', 12.5),
  ('apg:2@0-0.5,s2:1.5:masks=2:skip=2:exclude=1@0.3-1', 'heun', None),
]


@pytest.mark.parametrize(
  ('text', 'solver', 'expected'),
  [*CASES, *(pytest.param(*case, marks=SLOW) for case in SLOW_CASES)],
)
def test_nfe_is_what_runs(text, solver, expected):
  shape = (6, 6, 1) if 'fdg' in text else SHAPE
  declared, counted = measure(text, solver, shape=shape)
  assert declared == pytest.approx(counted, rel=1e-5)
  if expected is not None:
    assert declared == pytest.approx(expected, rel=1e-6)
  else:
    assert declared > 6  # S2 adds passes of sub-networks.


def test_published_intervals_of_sit():
  # IG for SiT uses 250 steps, a last step of 0.04, and CFG at t <= 0.7.
  grid = make_grid(250, last_step_size=0.04)
  guidance = 'ig:1.4@0.3-1,cfg:1.35@0-0.7'
  declared, counted = measure(guidance, 'euler_maruyama', grid=grid)
  assert declared == counted == 250 + 172


def test_published_intervals_of_lightningdit():
  # Published settings are 124 Heun steps, shift 0.3, and CFG at 1 - t >= 0.19.
  grid = make_grid(124, shift=1 / 0.3)
  twice = sum(t <= 0.81 for t in grid[:-1]) + sum(t <= 0.81 for t in grid[1:])
  declared, counted = measure(
    'ig:1.4,cfg:1.45@0-0.81', 'heun:final_step=heun', 'evaluation', grid
  )
  assert declared == counted == 248 + twice
  assert 50 < twice < 200


def test_nfe_where_each_evaluation_reads_its_own_scales():
  # CFG is on at t = 4/6 and 3/6. Each of these times has two evaluations.
  declared, counted = measure('cfg:1.5@0.4-0.7', 'heun', 'evaluation')
  assert declared == counted == 11 + 4
  # CFG is on for two evaluations at t = 1/6 and for one at t = 0. With scales
  # read once per step, CFG is on for the two evaluations of the last step only.
  heun = 'heun:final_step=heun'
  declared, counted = measure('cfg:1.5@0-0.2', heun, 'evaluation')
  assert declared == counted == 12 + 3
  assert measure('cfg:1.5@0-0.2', heun)[0] == 12 + 2


@pytest.mark.parametrize(('interval', 'dtype'), [
  ('0.2-0.8', 'float32'),
  ('0.2-0.8', 'float64'),
  *(
    pytest.param(interval, dtype, marks=SLOW)
    for interval in ('0.2-1', '0-0.4')
    for dtype in ('float32', 'float64')
  ),
])  # fmt: skip
def test_bounds_on_a_time_of_the_grid(interval, dtype):
  # Intervals from 0.2 include the time 0.19999999999999996 of make_grid(5).
  grid, (low, high) = make_grid(5), map(float, interval.split('-'))
  text = f'cfg:2@{interval}'
  declared, counted = measure(text, 'euler', grid=grid, dtype=dtype)
  inside = [low <= t <= high for t in (1.0, 0.8, 0.6, 0.4, 0.2)]
  assert declared == counted == 5 + sum(inside)


@pytest.mark.parametrize(('text', 'more'), [
  ('cfg:1.5@0-0.5', None),
  pytest.param('none', 0, marks=SLOW),
  pytest.param('cfg:1.5', 1, marks=SLOW),
  pytest.param('auto:2', 0.25, marks=SLOW),
  pytest.param('slg:2:blocks=2+4@0.5-1,cfg:2@0.3-0.6', None, marks=SLOW),
])  # fmt: skip
def test_adaptive_solver_counts_what_runs(text, more):
  spent, passes = measure(text, 'dopri5:rtol=1e-5')
  assert spent == pytest.approx(passes, rel=1e-5)
  # All predictions are equal, so guidance does not change the steps. Two
  # evaluations choose the first step. Each step takes six evaluations.
  plain, _ = measure('none', 'dopri5:rtol=1e-5')
  assert plain >= 20 and (plain - 2) % 6 == 0
  if more is None:
    assert 1.1 * plain < spent < 1.9 * plain
  else:
    assert spent == pytest.approx((1 + more) * plain, rel=1e-5)


def test_nfe_follows_the_blocks_drawn():
  solver, grid = make_solver('euler', path_named('linear')), make_grid(STEPS)
  how = sampler.Integration(solver, SHAPE)
  counts = [
    sampler.nfe(parse('s2:1.5'), Counting(), grid, seed, how)
    for seed in range(8)
  ]
  assert len(set(counts)) > 3
  # Each of 6 steps takes one pass. S2 adds 0 to 4 of the 6 blocks.
  assert min(counts) >= 6 and max(counts) <= 6 + 6 * 4 / 6
  blocks = np.asarray(counts) * 6
  np.testing.assert_allclose(blocks, blocks.round(), atol=1e-4)
