"""The command of a training run also resumes the run after a stop or a kill."""

import json
import random
import re
import signal
import time
import types

import command_runs
import jax
import numpy as np
import optax
import pytest
from command_runs import ROOT, made_once

from dit.sharding import make_mesh
from dit.weights.restore import restore_weights
from train import config_file, state
from train.checkpointer import CheckpointConfig, Checkpointer
from train.experiment import build
from train.optimizer import make_optimizer

# Each step takes 64 images. Epochs of 1,297 images end in steps 21 and 41.
STEPS = 60
CONFIG = (
  'model.depth=2',
  'model.width=16',
  'model.num_heads=2',
  'model.taps=(1,)',
  'train.accumulate=2',
  'ema.widths=(0.1,)',
  'optimizer.warmup_images=640',
  f'train.images={64 * STEPS}',
  'checkpoint.every_images=640',
  'log.every_images=64',
  'log.preview_every_images=0',
)
EXPERIMENT = build(
  config_file.override(
    config_file.load_config(str(ROOT / 'configs/digits.py')), CONFIG
  ).to_dict()
)


class Run:
  """A training run in a workdir. One command starts and resumes the run."""

  def __init__(self, folder):
    folder.mkdir(parents=True, exist_ok=True)
    self.folder = folder
    self.workdir = folder / 'run'
    self.words = [
      'train',
      '--config=configs/digits.py',
      f'--workdir={self.workdir}',
      # Each run writes its own data, so that a kill can interrupt the writing.
      f'--config.data.dir={folder}/data',
      *(f'--config.{assignment}' for assignment in CONFIG),
    ]

  def started(self):
    return command_runs.started(self.words, self.folder / 'stderr')

  def finish(self):
    """Trains to the end. Returns the step of a restored checkpoint, or None."""
    complete = self.complete_steps()
    with self.started() as process:
      assert process.wait(timeout=240) == 0, self.stderr()
    restored = re.findall(r'Restored step (\d+)\.', self.stderr())
    # The run must restore its newest complete checkpoint, if there is one.
    assert list(map(int, restored)) == complete[-1:]
    assert f'Trained {STEPS} steps' in self.stderr()
    return complete[-1] if complete else None

  def stderr(self):
    return (self.folder / 'stderr').read_text()

  def complete_steps(self):
    names = self.names_of_checkpoints()
    return sorted(int(name) for name in names if name.isdecimal())

  def names_of_checkpoints(self):
    folder = self.workdir / 'checkpoints'
    return [path.name for path in folder.iterdir()] if folder.exists() else []

  def last_step(self):
    steps = re.findall(r' step (\d+): ', self.stderr())
    return int(steps[-1]) if steps else 0

  def is_saving(self):
    """Whether the run is writing a checkpoint, which has a temporary name."""
    return not all(map(str.isdecimal, self.names_of_checkpoints()))

  def is_replacing(self):
    """Whether the run is about to delete its oldest checkpoint."""
    return len(self.complete_steps()) > 2

  def metrics(self):
    """Returns the entries of metrics.jsonl without the timings."""
    rows = []
    for line in (self.workdir / 'metrics.jsonl').read_text().splitlines():
      rows.append(json.loads(line))
      for name in ('images_per_second', 'waiting', 'tflops', 'compile_seconds'):
        rows[-1].pop(name, None)
    return rows

  def state(self):
    optimizer = make_optimizer(
      EXPERIMENT.optimizer, optax.constant_schedule(0.1)
    )
    mesh = make_mesh(EXPERIMENT.mesh, jax.devices()[:1])
    abstract = state.abstract(EXPERIMENT.model, optimizer, mesh, averages=1)
    config = CheckpointConfig(every_images=1, keep=2)
    with Checkpointer(self.workdir, config) as checkpointer:
      return jax.tree.map(np.array, checkpointer.restore(abstract))


def wait_until(condition, process, seconds=240):
  """Waits for a condition. Returns False if the process ends earlier."""
  end = time.monotonic() + seconds
  while not condition():
    if process.poll() is not None:
      return False
    assert time.monotonic() < end, 'timed out'
    time.sleep(0.002)
  return True


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
  """Metrics and final state of a run that is never stopped."""

  def undisturbed(folder):
    assert Run(folder).finish() is None

  run = Run(made_once(tmp_path_factory, 'undisturbed', undisturbed))
  return types.SimpleNamespace(metrics=run.metrics(), state=run.state())


@pytest.fixture
def run(tmp_path):
  return Run(tmp_path)


def assert_same_end(run, shared):
  """Checks that the final states and metrics of two runs are bitwise equal."""
  ours = run.state()
  assert jax.tree.structure(ours) == jax.tree.structure(shared.state)
  jax.tree.map(np.testing.assert_array_equal, ours, shared.state)
  assert run.metrics() == shared.metrics
  assert sorted(run.names_of_checkpoints()) == ['50', '60']


@pytest.mark.slow
def test_undisturbed_run_is_whole(shared):
  assert [row['step'] for row in shared.metrics] == list(range(1, STEPS + 1))
  assert shared.state.step == STEPS
  assert all(np.isfinite(row['loss']) for row in shared.metrics)
  first, *_, last = shared.metrics
  assert last['loss'] < first['loss']


@pytest.fixture
def usual_hangup():
  """Resets SIGHUP. Under nohup, child processes would ignore this signal."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)


def stop(shared, run, number, after):
  """Sends a signal when `after` steps are logged; returns the saved step."""
  with run.started() as process:
    lines = run.workdir / 'metrics.jsonl'

    def taken():
      if not after:
        return 'Compiling the' in run.stderr()
      return lines.exists() and lines.read_text().count('\n') >= after

    assert wait_until(taken, process), run.stderr()
    process.send_signal(number)
    assert process.wait(timeout=60) == 0, run.stderr()
  step = run.complete_steps()[-1]
  assert after <= step < STEPS
  assert f'{number.name}: saved step {step}, stopping.' in run.stderr()
  assert f'{number.name}: the run saves and stops after' in run.stderr()
  assert run.metrics() == shared.metrics[:step]
  assert (run.workdir / 'loss.png').exists()
  return step


@pytest.mark.slow
@pytest.mark.parametrize(
  'number, after',
  [
    (signal.SIGTERM, 3),  # in the first epoch
    (signal.SIGHUP, 0),  # during compilation of the step
  ],
)
def test_stopped_run_goes_on_as_if_it_had_not(
  shared, run, number, after, usual_hangup
):
  step = stop(shared, run, number, after)
  assert run.finish() == step
  assert_same_end(run, shared)


# (condition, seconds) of each kill. The kill comes after the condition is true
# and a random delay of at most `seconds` has passed. `step` is a random step.
MOMENTS = {
  'start-up': (lambda run, step: True, 3.0),
  'data': (lambda run, step: 'Writing the digits' in run.stderr(), 1.0),
  'compilation': (lambda run, step: 'Compiling the' in run.stderr(), 2.0),
  'training': (lambda run, step: run.last_step() >= step, 0.1),
  'saving': (
    lambda run, step: run.last_step() >= step and run.is_saving(),
    0.05,
  ),
  'replacing': (
    lambda run, step: run.last_step() >= step and run.is_replacing(),
    0.01,
  ),
}


def kill(run, moment, seed):
  """Starts and kills the run. Returns False if it ended before the kill."""
  condition, seconds = MOMENTS[moment]
  rng = random.Random(seed)
  step, delay = rng.randint(1, 50), rng.uniform(0, seconds)
  with run.started() as process:
    if wait_until(lambda: condition(run, step), process):
      time.sleep(delay)
    if process.poll() is not None:
      assert process.returncode == 0, run.stderr()
      return False
    process.send_signal(signal.SIGKILL)
    process.wait()
  return True


def check_readable(run):
  """Checks that sampling can read the newest complete checkpoint."""
  steps = run.complete_steps()
  if steps:
    mesh = make_mesh(EXPERIMENT.mesh, jax.devices()[:1])
    params, step = restore_weights(run.workdir, EXPERIMENT.model, mesh)
    assert step == steps[-1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def kill_and_finish(run, shared, moments):
  """Kills a run once for each of `moments`, then resumes the run to the end."""
  for seed, moment in moments:
    kill(run, moment, seed)
    check_readable(run)
  if run.complete_steps()[-1:] != [STEPS]:
    run.finish()
  assert_same_end(run, shared)


@pytest.mark.slow
def test_a_run_stopped_and_then_killed_ends_the_same(shared, run):
  stop(shared, run, signal.SIGINT, 24)  # Step 24 is in epoch 2.
  kill_and_finish(run, shared, [(0, 'saving')])


@pytest.mark.slow
@pytest.mark.parametrize(
  'seed, moment',
  [
    *enumerate(MOMENTS, start=1),
    (0, 'training'),
    (7, 'training'),
    (8, 'saving'),
    (9, 'saving'),
    (10, 'replacing'),
  ],
)
def test_run_killed_anywhere_ends_the_same(shared, run, seed, moment):
  kill_and_finish(run, shared, [(seed, moment)])


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(2))
def test_run_killed_again_and_again_ends_the_same(shared, run, seed):
  moments = ['data', 'compilation', 'start-up', 'saving', 'training', 'saving']
  kill_and_finish(
    run, shared, [(10 * seed + i, moment) for i, moment in enumerate(moments)]
  )
