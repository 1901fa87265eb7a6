import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from core.errors import NonFiniteError
from dit.latents import LatentSpace
from dit.sharding import make_mesh
from dit.weights.checkpoint_names import saved_steps
from train import loop
from train.metrics_log import read_metrics
from train.setup import make_setup
from train.state import TrainState

BATCH = 16
EVERY_STEP = (
  f'log.every_images={BATCH}',
  'checkpoint.keep=100',
  'ema.widths=(0.1,)',
  f'ema.snapshot_images={2 * BATCH}',
  f'checkpoint.every_images={2 * BATCH}',
)


class Toy:
  """A tiny run with given steps of NaN loss, huge weights and signals."""

  def __init__(self, make_experiment, workdir, bad=(), ruined=(), signals=()):
    self.make_experiment, self.workdir = make_experiment, workdir
    self.bad, self.ruined, self.signals = bad, ruined, signals
    self.taken = []

  def fresh(self):
    weights = {'w': jnp.ones(2)}
    zero = jnp.int32(0)
    return TrainState(zero, zero, weights, weights, (weights,), ())

  def step(self, n, state, batch, key):
    del batch, key
    step = n + 1
    self.taken.append(step)
    if step in self.signals:
      os.kill(os.getpid(), signal.SIGTERM)
    bad = step in self.bad
    streak = state.bad_steps + 1 if bad else jnp.int32(0)
    weights = state.params if bad else {'w': state.params['w'] + 1}
    if step in self.ruined:
      weights = {'w': jnp.full(2, 1e30)}
    metrics = {
      'loss': jnp.float32(np.nan if bad else 1),
      'bad_steps': streak,
      'param_norm': optax.tree.norm(weights),
    }
    trees = weights, weights, (weights,), ()
    return TrainState(jnp.int32(step), streak, *trees), metrics

  def run(self, steps, *assignments, fresh=None):
    experiment = self.make_experiment(
      *EVERY_STEP, f'train.images={BATCH * steps}', *assignments
    )
    mesh = make_mesh(experiment.mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
      self.fresh(),
    )
    rate, fresh = optax.constant_schedule(0.1), fresh or self.fresh
    task = loop.TrainingTask(abstract, fresh, self.step, rate, 1.0,
                             reads_records=False)  # fmt: skip
    setup = make_setup(experiment, mesh, None, LatentSpace())
    return loop.run(setup, self.workdir, task)

  def snapshots(self):
    return sorted(int(p.name) for p in (self.workdir / 'snapshots').iterdir())

  def rows(self):
    return {row['step']: row for row in read_metrics(self.workdir)}


@pytest.fixture
def make_toy(make_experiment, tmp_path):
  return lambda **kwargs: Toy(make_experiment, epath.Path(tmp_path), **kwargs)


def test_a_save_waits_for_a_finite_step(make_toy):
  toy = make_toy(bad=(2, 3, 6))
  assert toy.run(8)
  assert saved_steps(toy.workdir) == toy.snapshots() == [4, 7, 8]
  totals = [row['bad_steps_total'] for row in toy.rows().values()]
  assert totals == [0, 1, 2, 2, 2, 3, 3, 3]


def test_ruined_parameters_are_not_saved(make_toy):
  """The run must not save huge weights, which make later steps non-finite."""
  toy = make_toy(bad=range(5, 100), ruined=(4,))
  with pytest.raises(NonFiniteError, match='3 steps in a row, up to step 7'):
    toy.run(20, 'train.max_bad_steps=3')
  assert saved_steps(toy.workdir) == toy.snapshots() == [2]


def test_bad_steps_are_counted_across_restarts(make_toy):
  toy = make_toy(bad=(1, 6))
  assert toy.run(4)
  assert toy.run(8)
  assert toy.taken == list(range(1, 9))
  rows = toy.rows()
  assert [rows[step]['bad_steps'] for step in (1, 2, 6)] == [1, 0, 1]
  assert [rows[step]['bad_steps_total'] for step in (1, 5, 8)] == [1, 1, 2]


def test_a_run_of_mostly_bad_steps_fails_at_its_end(make_toy):
  toy = make_toy(bad=range(1, 6))
  for _ in range(2):  # The second run takes no step.
    with pytest.raises(NonFiniteError, match='5 of 8 steps') as error:
      toy.run(8)
    assert '\n' not in str(error.value)
  assert saved_steps(toy.workdir) == [6, 8]
  assert toy.taken == list(range(1, 9))


def test_a_run_of_half_bad_steps_does_not_fail(make_toy):
  assert make_toy(bad=range(1, 5)).run(8)


def test_a_bad_last_step_is_not_saved(make_toy):
  toy = make_toy(bad=(5, 6))
  message = 'step 6, the last one, .* newest checkpoint is that of step 4'
  with pytest.raises(NonFiniteError, match=message):
    toy.run(6)
  assert saved_steps(toy.workdir) == [2, 4]
  assert (toy.workdir / 'loss.png').exists()
  assert toy.run(7)  # A longer run can resume.
  assert saved_steps(toy.workdir) == [2, 4, 7]


def test_a_stop_at_a_bad_step_keeps_the_last_good_one(make_toy):
  toy = make_toy(bad=(4,), signals=(4,))
  assert not toy.run(8)
  assert saved_steps(toy.workdir) == [2]
  toy.signals = ()
  assert toy.run(8)
  assert toy.taken == [1, 2, 3, 4, 3, 4, 5, 6, 7, 8]


def test_a_stop_before_the_first_step_takes_none(make_toy):
  toy = make_toy()

  def fresh():
    os.kill(os.getpid(), signal.SIGTERM)
    return toy.fresh()

  assert not toy.run(4, fresh=fresh)
  assert toy.taken == saved_steps(toy.workdir) == []
