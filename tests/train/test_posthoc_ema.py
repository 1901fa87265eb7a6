"""Tests EMA snapshots, and training from the weights of another run."""

import dataclasses
import shutil

import command_runs
import jax
import numpy as np
import pytest
from networks import assert_close

from core.errors import InputError
from dit import model
from dit.sharding import MeshConfig, make_mesh
from train import loop, runs, workdir
from train.ema import EMAConfig, coefficients
from train.experiment import build
from train.optimizer import make_optimizer, make_schedule
from train.posthoc_ema import Snapshots, reconstruct
from train.setup import open_setup

CONFIG = EMAConfig(0.99, False, widths=(0.05, 0.1), snapshot_images=1)


@pytest.fixture(scope='module')
def mesh():
  return make_mesh(MeshConfig(data=1, fsdp=8))


@pytest.fixture(scope='module')
def snapshots(tmp_path_factory, config, mesh):
  folder, rng = tmp_path_factory.mktemp('run'), np.random.default_rng(0)

  def draw():
    return jax.tree.map(
      lambda leaf: jax.numpy.asarray(rng.normal(size=leaf.shape), 'float32'),
      model.shapes(config),
    )

  saved = {step: (draw(), draw()) for step in (10, 20)}
  for _ in range(2):  # A resumed run may save the same steps again.
    with Snapshots(folder, CONFIG) as writer:
      for step, power in saved.items():
        writer.save(power, step)
  return folder, saved


@pytest.mark.parametrize('step', [10, None])
def test_a_tracked_width_is_its_snapshot(snapshots, config, mesh, step):
  folder, saved = snapshots
  ours, at = reconstruct(folder, config, mesh, 0.1, step)
  assert at == (step or 20)
  assert_close(ours, saved[at][1], atol=1e-5)


def test_another_width_is_the_sum(snapshots, config, mesh):
  folder, saved = snapshots
  ours, _ = reconstruct(folder, config, mesh, 0.15)
  places = [(step, width) for step in saved for width in CONFIG.widths]
  trees = [tree for power in saved.values() for tree in power]
  factors = coefficients(places, 20, 0.15)
  expected = jax.tree.map(
    lambda *xs: sum(f * x for f, x in zip(factors, xs, strict=True)), *trees
  )
  assert_close(ours, expected, atol=1e-4)


def test_missing_snapshots_are_named(snapshots, config, mesh, tmp_path):
  with pytest.raises(InputError, match='no snapshots in'):
    reconstruct(tmp_path, config, mesh, 0.1)
  with pytest.raises(InputError, match=r'no snapshot of step 15 .* 10, 20'):
    reconstruct(snapshots[0], config, mesh, 0.1, 15)
  with pytest.raises(InputError, match=r'from 0\.005 to'):
    reconstruct(snapshots[0], config, mesh, 0.5)


@pytest.mark.parametrize(
  'text', ['best', 'ema:', 'ema:wide', 'raw:0.1', 'ema:0']
)
def test_unknown_weights_are_refused(shared_run, text):
  words = f'--workdir={shared_run}/run', f'--weights={text}'
  result = command_runs.run('sample', *words)
  assert result.status == 2
  assert '--weights' in result.err


def starting(experiment, source, **changes):
  """Returns an experiment with initial weights from the run `source`."""
  train = dataclasses.replace(experiment.train, init_from=str(source))
  return dataclasses.replace(experiment, train=train, **changes)


@pytest.mark.slow
def test_a_run_starts_from_anothers_weights(shared_run):
  source = shared_run / 'run'
  experiment = build(workdir.load_config(source))
  experiment = starting(experiment, source, ema=CONFIG)
  open_setup(experiment)
  mesh = make_mesh(MeshConfig(data=4, fsdp=2))
  rule = experiment.optimizer
  schedule = make_schedule(rule, batch_size=16, total_images=160)
  state = loop.fresh(experiment, make_optimizer(rule, schedule), mesh)
  whole = make_mesh(MeshConfig())
  expected, step = runs.run_weights(str(source), experiment.model, whole, 'ema')
  assert (state.step, step > 0) == (0, True)
  for tree in (state.params, state.ema, *state.power):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)
    kernel = tree['blocks']['mlp']['fc1']['kernel']
    assert not kernel.sharding.is_fully_replicated


def test_another_network_is_no_start(shared_run, tmp_path):
  shutil.copytree(shared_run / 'run', tmp_path / 'run')
  experiment = build(workdir.load_config(tmp_path / 'run'))
  other = dataclasses.replace(experiment.model, num_heads=4)
  for folder, message in (('run', 'holds another network'),
                          ('', 'is not the workdir of a run')):  # fmt: skip
    with pytest.raises(InputError, match=message):
      open_setup(starting(experiment, tmp_path / folder, model=other))
