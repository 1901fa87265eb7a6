"""A training step learns, skips non-finite updates, and runs on any mesh."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_close, assert_same

from dit.sharding import MeshConfig, batch_sharding, make_mesh
from train import ema, state
from train.checkpointer import CheckpointConfig, Checkpointer
from train.optimizer import make_optimizer, make_schedule
from train.step import make_train_step

BATCH = 16
COMPARED = ('loss', 'grad_norm', 'update_norm', 'param_norm')
TERMS = {*COMPARED, 'loss/velocity', 'loss/intermediate_1', 'bad_steps'}


def make_batch(mesh, seed=0):
  """Returns gray images with one shade per class and a little noise.

  Images are floats, so that a test can insert a NaN.
  """
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 10, BATCH).astype(np.int32)
  noise = rng.integers(0, 30, (BATCH, 8, 8, 1))
  image = np.float32(25 * label[:, None, None, None] + noise)
  batch = {'image': image, 'label': label}
  return jax.device_put(batch, batch_sharding(mesh))


def build(experiment, mesh):
  """Returns a namespace with step function and initial state for a mesh."""
  rule, images = experiment.optimizer, 100 * BATCH
  schedule = make_schedule(rule, batch_size=BATCH, total_images=images)
  optimizer = make_optimizer(rule, schedule)
  options = {'averages': len(experiment.ema.widths),
             'zero1': experiment.mesh.zero1}  # fmt: skip
  abstract = state.abstract(experiment.model, optimizer, mesh, **options)
  step = make_train_step(
    experiment.model, experiment.objective, optimizer, experiment.ema, abstract,
    accumulate=experiment.train.accumulate,
  )  # fmt: skip

  def take(current, batch):
    with jax.set_mesh(mesh):
      return step(current, batch, jax.random.key(0))

  def init():
    with jax.set_mesh(mesh):
      return state.init(experiment.model, optimizer, mesh, 0, **options)

  return types.SimpleNamespace(
    experiment=experiment, mesh=mesh, abstract=abstract, init=init, start=init,
    jitted=step, step=take,
  )  # fmt: skip


@pytest.fixture(scope='module')
def run(make_experiment):
  experiment = make_experiment('optimizer.lr=1e-2')
  run = build(experiment, make_mesh(MeshConfig()))
  first = run.init()
  shardings = jax.tree.map(lambda leaf: leaf.sharding, first)
  first = jax.tree.map(np.array, first)
  run.start = lambda: jax.device_put(first, shardings)
  return run


def test_fresh_state_starts_from_its_parameters(run):
  fresh = run.start()
  assert (fresh.step, fresh.bad_steps) == (0, 0)
  assert_same(fresh.params, fresh.ema)


def test_loss_falls_on_one_batch(run):
  current, batch, losses = run.start(), make_batch(run.mesh), []
  for _ in range(30):
    current, metrics = run.step(current, batch)
    assert metrics.keys() == TERMS
    assert all(np.isfinite(value) for value in metrics.values())
    losses.append(float(metrics['loss']))
  assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
  assert (current.step, current.bad_steps) == (30, 0)


def test_step_is_deterministic_and_draws_anew_each_time(run):
  batch = make_batch(run.mesh)
  first, metrics = run.step(run.start(), batch)
  again, metrics_again = run.step(run.start(), batch)
  assert_same(first, again)
  assert_same(metrics, metrics_again)
  later = run.start()
  later = dataclasses.replace(later, step=later.step + 1)
  _, metrics_later = run.step(later, batch)
  assert metrics_later['loss'] != metrics['loss']


@pytest.mark.slow
def test_average_follows_the_new_parameters(run):
  before = jax.tree.map(np.array, run.start().ema)
  after, _ = run.step(run.start(), make_batch(run.mesh))
  expected = ema.update(run.experiment.ema, before, after.params, jnp.int32(0))
  assert_close(after.ema, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_bad_batch_changes_nothing_but_counters(run):
  good = make_batch(run.mesh)
  image = np.array(good['image'])
  image[3, 2, 1, 0] = np.nan
  bad = good | {'image': jax.device_put(image, good['image'].sharding)}

  current, _ = run.step(run.start(), good)
  before = jax.tree.map(np.array, current)
  for count in (1, 2):
    current, metrics = run.step(current, bad)
    assert not np.isfinite(metrics['loss'])
    assert metrics['bad_steps'] == current.bad_steps == count
    assert current.step == 1 + count
    assert_same(current.params, before.params)
    assert_same(current.ema, before.ema)
    assert_same(current.opt_state, before.opt_state)

  current, metrics = run.step(current, good)
  assert np.isfinite(metrics['loss'])
  assert metrics['bad_steps'] == current.bad_steps == 0
  assert current.step == 4
  same = jax.tree.map(np.array_equal, current.params, before.params)
  assert not all(jax.tree.leaves(same))


def test_old_state_is_donated(run):
  old = run.start()
  run.step(old, make_batch(run.mesh))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_step_keeps_shapes_and_dtypes(make_experiment, dtype):
  experiment = make_experiment(f'model.param_dtype={dtype}')
  run = build(experiment, make_mesh(MeshConfig(data=1, fsdp=8)))

  def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}

  assert dtypes(run.abstract.params) == {dtype}
  assert dtypes(run.abstract.ema) == {'float32'}
  with jax.set_mesh(run.mesh):
    new, metrics = jax.eval_shape(
      run.jitted, run.abstract, make_batch(run.mesh), jax.random.key(0)
    )
  terms = [metrics[name] for name in TERMS if name.startswith('loss')]
  assert dtypes(terms) == {'float32'}

  def described(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return [(path, leaf.shape, leaf.dtype) for path, leaf in leaves]

  assert described(new) == described(run.abstract)


def figures(run):
  current, rows = run.start(), []
  for seed in range(8):
    current, metrics = run.step(current, make_batch(run.mesh, seed))
    rows.append([float(metrics[name]) for name in COMPARED])
  columns = np.transpose(rows).tolist()
  return dict(zip(COMPARED, columns, strict=True))


@pytest.fixture(scope='module')
def expected(run):
  """Metrics of eight steps on eight devices that all have the whole network."""
  return figures(run)


@pytest.mark.slow
@pytest.mark.parametrize(('sizes', 'assignments'), [
  ((2, 2, 2), ['train.accumulate=2']),
  ((8, 1, 1), ['mesh.zero1=true']),
  ((1, 8, 1), []),
  ((2, 4, 1), ['mesh.zero1=true']),
  ((4, 1, 2), []),
  ((1, 1, 1), []),
  ((1, 1, 1), ['train.accumulate=4']),
])  # fmt: skip
def test_every_mesh_trains_alike(expected, make_experiment, sizes, assignments):
  mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
  experiment = make_experiment('optimizer.lr=1e-2', *assignments)
  ours = figures(build(experiment, mesh))
  np.testing.assert_allclose(ours['loss'], expected['loss'], rtol=1e-4)
  for name in COMPARED[1:]:
    np.testing.assert_allclose(ours[name], expected[name], rtol=1e-3)
  assert np.ptp(ours['param_norm']) > 0.01  # The weights changed.


@pytest.mark.slow
def test_data_prediction_learns_with_a_velocity_loss(make_experiment):
  """The loss compares (x_t - x0) / t with the velocity, as JiT's does."""
  experiment = make_experiment(
    'objective.prediction=data', 'model.convention=data', 'optimizer.lr=1e-2'
  )
  run = build(experiment, make_mesh(MeshConfig()))
  current, losses, batch = run.start(), [], make_batch(run.mesh)
  for _ in range(30):
    current, metrics = run.step(current, batch)
    losses.append(float(metrics['loss']))
  assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_devices(tmp_path, make_experiment):
  """An FSDP run on eight devices can resume on eight, on four and on one."""
  experiment, keep = make_experiment(), CheckpointConfig(1, 1)
  losses = {}
  for count in (8, 4, 1):
    mesh = make_mesh(MeshConfig(data=1, fsdp=count), jax.devices()[:count])
    run = build(experiment, mesh)
    with Checkpointer(tmp_path, keep) as checkpointer:
      if count == 8:
        current = run.init()
        for seed in range(5):
          current, _ = run.step(current, make_batch(mesh, seed))
        checkpointer.save(current, 5)
        checkpointer.wait()
      current = checkpointer.restore(run.abstract)
    assert current.step == 5
    losses[count] = []
    for seed in range(5, 12):
      current, metrics = run.step(current, make_batch(mesh, seed))
      losses[count].append(float(metrics['loss']))
  for count in (4, 1):
    np.testing.assert_allclose(losses[count], losses[8], rtol=1e-5)


@pytest.mark.slow
def test_guided_target_starts_when_it_should(run, make_experiment):
  """The guided target changes the loss only after `guided_start_images`."""
  guided = make_experiment(
    'optimizer.lr=1e-2', 'objective.guided_weight=1.0',
    f'objective.guided_start_images={2 * BATCH}',
  )  # fmt: skip
  losses = []
  for step in (run.step, build(guided, run.mesh).step):
    current = run.start()
    for seed in range(4):
      current, metrics = step(current, make_batch(run.mesh, seed))
      losses.append(float(metrics['loss/velocity']))
  plain, ours = losses[:4], losses[4:]
  np.testing.assert_allclose(plain[:2], ours[:2], rtol=1e-6)
  assert abs(plain[3] - ours[3]) > 1e-5 * plain[3]
