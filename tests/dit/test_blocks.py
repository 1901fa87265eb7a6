"""Which blocks run, told by blocks that report when they do."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from dit.blocks import first_skipped, run, run_sub

KEEPS = {
  (1, 1, 1, 1, 1): 5,
  (0, 1, 1, 1, 1): 0,
  (1, 0, 1, 1, 0): 1,
  (1, 1, 1, 0, 1): 3,
  (1, 1, 1, 1, 0): 4,
  (0, 0, 0, 0, 0): 0,
}
each_keep = pytest.mark.parametrize(('keep', 'first'), KEEPS.items())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reporting:
  """Block k adds 2^k, and reports k when it runs."""

  k: jax.Array
  report: Callable[[int], None] = dataclasses.field(metadata={'static': True})

  def __call__(self, h, c, rotary=None):
    del c, rotary
    jax.debug.callback(lambda k: self.report(int(k)), self.k)
    return h + 2.0**self.k


def run_reporting(function):
  """The result of function(blocks), jitted, and the blocks that ran."""
  ran = []
  blocks = Reporting(jnp.arange(5), ran.append)
  result = jax.block_until_ready(jax.jit(function)(blocks))
  jax.effects_barrier()
  return result, sorted(ran)


def added(blocks):
  return float(sum(2**k for k in blocks))


@each_keep
def test_first_skipped(keep, first):
  assert first_skipped(jnp.asarray(keep, bool)) == first


@each_keep
@pytest.mark.parametrize('scan', [True, False])
def test_skipped_blocks_do_not_run(config, keep, first, scan):
  config = dataclasses.replace(config, scan=scan)
  points = (0, 2, jnp.int32(first), 5)
  (h, states), ran = run_reporting(
    lambda blocks: run(
      blocks,
      jnp.zeros((1, 4, 8)),
      jnp.zeros((1, 8)),
      config=config,
      points=points,
      keep=jnp.asarray(keep, bool),
    )
  )
  kept = [k for k in range(5) if keep[k]]
  assert ran == kept
  assert (h == added(kept)).all()
  for point, state in zip(points, states, strict=True):
    assert (state == added(k for k in kept if k < point)).all()


@each_keep
def test_sub_network_runs_what_follows_its_first_skipped_block(keep, first):
  taps = (2, 3)
  kept = [k for k in range(5) if keep[k]]
  (h, tapped), ran = run_reporting(
    lambda blocks: run_sub(
      blocks,
      jnp.full((1, 4, 8), added(range(first))),
      jnp.zeros((1, 8)),
      keep=jnp.asarray(keep, bool),
      taps=taps,
      tapped=[jnp.full((1, 4, 8), added(range(tap))) for tap in taps],
    )
  )
  assert ran == [k for k in kept if k > first]
  assert (h == added(kept)).all()
  for tap, state in zip(taps, tapped, strict=True):
    assert (state == added(k for k in kept if k < tap)).all()
