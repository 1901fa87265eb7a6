"""Checks which blocks are executed, with stubs that record each call."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.blocks import first_skipped, run, run_sub
from dit.config import DiTConfig

KEEPS = {
  (1, 1, 1, 1, 1): 5, (0, 1, 1, 1, 1): 0, (1, 0, 1, 1, 0): 1,
  (1, 1, 1, 0, 1): 3, (1, 1, 1, 1, 0): 4, (0, 0, 0, 0, 0): 0,
}  # fmt: skip
each_keep = pytest.mark.parametrize(('keep', 'first'), KEEPS.items())
CONFIG = DiTConfig(size=8, channels=3, num_classes=10, patch=2, depth=5,
                   width=32, num_heads=4)  # fmt: skip
TAPS = (2, 3)
ran = []


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reporting:
  """A stack of blocks. Block k adds 2^k to its input and appends k to `ran`."""

  k: jax.Array

  def __call__(self, h, c, rotary=None):
    del c, rotary
    jax.debug.callback(lambda k: ran.append(int(k)), self.k)
    return h + 2.0**self.k


BLOCKS, C = Reporting(jnp.arange(5)), jnp.zeros((1, 8))


@functools.partial(jax.jit, static_argnames='scan')
def run_kept(keep, first, scan):
  config = dataclasses.replace(CONFIG, scan=scan)
  h, points = jnp.zeros((1, 4, 8)), (0, 2, first, 5)
  return run(BLOCKS, h, C, config=config, points=points, keep=keep)


@jax.jit
def run_behind(keep, before, tapped):
  states = [jnp.full((1, 4, 8), value) for value in (before, *tapped)]
  return run_sub(BLOCKS, states[0], C, keep=keep, taps=TAPS, tapped=states[1:])


def run_reporting(function, keep, *args):
  ran.clear()
  result = jax.block_until_ready(function(np.array(keep, bool), *args))
  jax.effects_barrier()
  return result, sorted(ran)


def added(blocks):
  return np.float32(sum(2**k for k in blocks))


@each_keep
def test_first_skipped(keep, first):
  assert first_skipped(jnp.asarray(keep, bool)) == first


@each_keep
@pytest.mark.parametrize('scan', [True, False])
def test_skipped_blocks_do_not_run(keep, first, scan):
  (h, states), blocks = run_reporting(run_kept, keep, first, scan)
  kept = [k for k in range(5) if keep[k]]
  assert blocks == kept
  assert (h == added(kept)).all()
  for point, state in zip((0, 2, first, 5), states, strict=True):
    assert (state == added(k for k in kept if k < point)).all()


@each_keep
def test_sub_network_runs_what_follows_its_first_skipped_block(keep, first):
  kept = [k for k in range(5) if keep[k]]
  before, tapped = added(range(first)), [added(range(tap)) for tap in TAPS]
  (h, states), blocks = run_reporting(run_behind, keep, before, tapped)
  assert blocks == [k for k in kept if k > first]
  assert (h == added(kept)).all()
  for tap, state in zip(TAPS, states, strict=True):
    assert (state == added(k for k in kept if k < tap)).all()
