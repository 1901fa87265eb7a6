"""The declared cost against the rows that really run."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.path import path_named
from dit.types import DenoiserOutput
from guidance import parse
from sample import sampler
from sample.grid import make_grid
from sample.registry import make_solver

SHAPE, BATCH, SEED = (2, 2, 1), 4, 11
STEPS = 6  # times 1, 5/6, 4/6, 3/6, 2/6, 1/6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting:
  """Reports, when it runs, how many whole passes of one row it costs."""

  report: Callable[[float], None] = dataclasses.field(metadata={'static': True})
  depth: int = dataclasses.field(default=6, metadata={'static': True})
  num_taps: int = dataclasses.field(default=1, metadata={'static': True})
  num_classes: int = dataclasses.field(default=10, metadata={'static': True})
  learned_variance = False

  def __call__(self, x, t, label, sub=None):
    def output(rows):
      return DenoiserOutput(-rows, (rows,))

    cost, subs = jnp.float32(len(x)), ()
    if sub is not None:
      rows = x[:: sub.every]
      for keep in sub.keep:
        behind = jnp.arange(self.depth) > jnp.argmin(keep)
        cost += len(rows) * (keep & behind).sum() / self.depth
        subs += (output(rows),)
    # Ordered after the inputs, so that nothing is hoisted out of a branch.
    jax.debug.callback(self.report, cost + 0 * x.sum())
    return dataclasses.replace(output(x), sub=subs)


def measure(text, solver_name, scales_at='step'):
  """NFE per image: declared and counted."""
  costs = []
  solver = make_solver(solver_name, path_named('linear'))
  grid = make_grid(STEPS)
  x = sampler.sample(
    Counting(lambda cost: costs.append(float(cost))),
    parse(text),
    jnp.arange(BATCH),
    jnp.arange(BATCH),
    jnp.asarray(grid),
    SEED,
    solver=solver,
    shape=SHAPE,
    scales_at=scales_at,
  )
  jax.block_until_ready(x)
  jax.effects_barrier()
  declared = sampler.nfe(parse(text), solver, grid, 6, SEED, scales_at)
  return declared, sum(costs) / BATCH


@pytest.mark.parametrize(
  ('text', 'solver', 'expected'),
  [
    ('none', 'euler', 6),
    ('none', 'heun', 11),
    ('ig:1.5', 'euler', 6),
    ('ig:1.5,cfg:1.5', 'heun', 22),
    ('cfg:1.5', 'euler_maruyama', 12),
    ('cfg:1,s2:1', 'heun', 11),
    # On at 4/6 and 3/6; each step whole, also where its end is outside.
    ('cfg:1.5@0.4-0.7', 'heun', 15),
    # Closed: on at 1 and 1/2.
    ('cfg:1.5@0.5-1', 'euler', 10),
    ('s2:1.5', 'euler', None),
    ('s2:1.5:skip=3@0.4-0.7', 'euler_maruyama', None),
    ('cfg:1.5,s2:1.5', 'heun', None),
    ('ig:1.5,s2:1.5:skip=2@0-0.5,cfg:1.5@0.4-0.7', 'heun', None),
    ('cfg:1.5', 'rk4', 48),
    ('none', 'midpoint', 12),
    ('none', 'heun:last=heun', 12),
    ('cfg:1.5@0.4-0.7', 'heun_maruyama', 15),
  ],
)
def test_nfe_is_what_runs(text, solver, expected):
  declared, counted = measure(text, solver)
  assert declared == pytest.approx(counted, rel=1e-5)
  if expected is not None:
    assert declared == expected
  else:
    assert declared > 6  # the sub-network costs something


def test_nfe_where_each_evaluation_reads_its_own_scales():
  # On at 4/6 and 3/6, each reached from above and left.
  declared, counted = measure('cfg:1.5@0.4-0.7', 'heun', 'evaluation')
  assert declared == counted == 11 + 4
  # On at 1/6 and 0: one more than where whole steps are on.
  declared, counted = measure('cfg:1.5@0-0.2', 'heun:last=heun', 'evaluation')
  assert declared == counted == 12 + 3
  assert measure('cfg:1.5@0-0.2', 'heun:last=heun')[0] == 12 + 2


def test_nfe_follows_the_blocks_drawn():
  solver, grid = make_solver('euler', path_named('linear')), make_grid(STEPS)
  counts = [
    sampler.nfe(parse('s2:1.5'), solver, grid, 6, seed) for seed in range(8)
  ]
  assert len(set(counts)) > 3
  # 6 passes, and 6 parts with 0 to 4 of 6 blocks.
  assert min(counts) >= 6 and max(counts) <= 6 + 6 * 4 / 6
  blocks = np.asarray(counts) * 6
  np.testing.assert_allclose(blocks, blocks.round(), atol=1e-4)
