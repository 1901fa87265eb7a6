"""The loop: its checks, its stops, and what it leaves behind."""

import os
import signal

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from dit import model
from dit.checkpoint import restore_weights
from dit.errors import InputError
from dit.sharding import replicated
from train import checkpoint, loop, report
from train.log import read_metrics
from train.monitor import Preview

KEEP = ('checkpoint.every_images=80', 'log.every_images=16')


def weights(workdir, experiment):
  mesh = loop.make_mesh(experiment.mesh)
  return restore_weights(workdir, experiment.model, mesh, 'raw')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, make_experiment):
  """A run of ten steps, and what was logged when steps 5 and 10 were saved."""
  workdir = epath.Path(tmp_path_factory.mktemp('run'))
  experiment = make_experiment(*KEEP, 'train.images=160')
  logged, steps, make = {}, [], loop.make_train_step

  class Spy(checkpoint.Checkpointer):
    def save(self, state, step, *rest):
      assert state.step == step
      logged[step] = [row['step'] for row in read_metrics(workdir)]
      super().save(state, step, *rest)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, 'Checkpointer', Spy)
    patch.setattr(
      loop,
      'make_train_step',
      lambda *args: steps.append(make(*args)) or steps[-1],
    )
    loop.train(experiment, workdir)
  (step,) = steps
  return workdir, experiment, logged, step._cache_size()


def test_steps_are_logged_before_they_are_saved(trained):
  """Else a kill behind the save would lose the line for good."""
  assert trained[2] == {5: [1, 2, 3, 4, 5], 10: list(range(1, 11))}


def test_a_run_compiles_its_step_once(trained):
  assert trained[3] == 1


def test_leaves_checkpoints_metrics_and_a_plot(trained):
  workdir, experiment, *_ = trained
  assert weights(workdir, experiment)[1] == 10
  rows = read_metrics(workdir)
  assert [row['step'] for row in rows] == list(range(1, 11))
  assert [row['images'] for row in rows] == list(range(16, 176, 16))
  assert all(np.isfinite(row['loss']) for row in rows)
  assert all(row['images_per_second'] > 0 for row in rows[1:])
  assert np.std(Image.open(workdir / 'loss.png')) > 5


def test_logged_rate_is_the_schedule(trained):
  workdir, experiment, *_ = trained
  lr = experiment.optimizer.lr  # reached after two steps of warm-up
  rates = [row['lr'] for row in read_metrics(workdir)]
  np.testing.assert_allclose(rates[:3], [lr / 2, lr, lr], rtol=1e-5)
  assert rates[2:] == sorted(rates[2:], reverse=True)
  assert rates[-1] > experiment.optimizer.end_fraction * lr


def test_longer_run_goes_on_until_nothing_is_finite(
  trained, make_experiment, tmp_path
):
  """Exploding steps end the run; the checkpoint before them stays."""
  workdir, experiment, *_ = trained
  before, _ = weights(workdir, experiment)
  exploding = make_experiment(
    *KEEP,
    'train.images=1600',
    'checkpoint.every_images=160',
    'optimizer.lr=1e30',
    'optimizer.clip=0',
    'train.max_bad_steps=4',
  )
  with pytest.raises(report.NonFiniteError, match='4 steps in a row') as error:
    loop.train(exploding, workdir)
  assert '\n' not in str(error.value)
  after, step = weights(workdir, experiment)
  assert step == 10
  jax.tree.map(np.testing.assert_array_equal, after, before)
  last = read_metrics(workdir)[-1]
  assert 10 < last['step'] < 20
  assert last['bad_steps'] == 3


def test_stop_is_asked_for_once():
  # Under nohup, SIGINT is ignored from the start.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  with loop.stop_on_signals() as stop:
    assert stop.signal == ''
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal == 'SIGTERM'
    # The next one acts at once, as before.
    now = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert now == before
  with loop.stop_on_signals() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == 'SIGINT'
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  now = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  assert now == before


@pytest.mark.parametrize(
  'images, size, steps', [(160, 16, 10), (170, 16, 10), (5, 16, 1)]
)
def test_images_make_steps(make_experiment, images, size, steps):
  experiment = make_experiment(
    f'train.images={images}', f'train.batch_size={size}'
  )
  assert experiment.train.steps == steps
  assert experiment.train.steps_of(images) == steps
  assert experiment.train.steps_of(0) == 0


@pytest.mark.parametrize(
  'assignments, message',
  [
    (['train.batch_size=12'], 'train.batch_size is 12'),
    (['mesh.fsdp=3'], 'mesh data=-1, fsdp=3'),
    (['data.train_split=valid'], "no split 'valid'"),
    (['model.size=16'], 'records have shape'),
    (
      ['model.taps=()', 'log.preview_every_images=16'],
      'needs tap 0',
    ),
  ],
)
def test_check_refuses_what_cannot_run(make_experiment, assignments, message):
  with pytest.raises(InputError, match=message):
    loop.check(make_experiment(*assignments))


@pytest.mark.parametrize(
  'assignments, message',
  [
    (['train.images=0'], 'train.images is 0'),
    (['train.batch_size=-8'], 'train.batch_size is -8'),
    (['train.max_bad_steps=0'], 'train.max_bad_steps is 0'),
    (['checkpoint.keep=0'], 'checkpoint.keep'),
    (['checkpoint.every_images=0'], 'checkpoint.every_images'),
    (['sample.steps=0'], 'steps is 0'),
    (['log.preview_guidance=igg:2'], "Did you mean 'ig'"),
    (['objective.intermediate_weights=(1,2,3)'], '3 values for 1 taps'),
    (['seed=-1'], 'seed is -1'),
    (['sample.solver=eular'], "Did you mean 'euler'"),
    (['log.preview_num=0'], 'preview_num'),
  ],
)
def test_experiment_refuses_what_cannot_be(
  make_experiment, assignments, message
):
  """Refused when built, or at the latest by the loop's check."""
  with pytest.raises(InputError, match=message):
    loop.check(make_experiment(*assignments, 'log.preview_every_images=16'))


def test_preview_is_a_grid_of_classes(make_experiment):
  experiment = make_experiment(
    'log.preview_every_images=16', 'log.preview_num=20', 'sample.steps=2'
  )
  mesh = loop.make_mesh(experiment.mesh)
  params = model.init(experiment.model, jax.random.key(0))
  preview = Preview(experiment, {}, mesh)
  image = preview(jax.device_put(params, replicated(mesh)))
  assert image.dtype == np.uint8
  # Twenty images of 40 pixels in ten columns, two pixels around each.
  assert image.shape == (2 * 44, 10 * 44, 1)
  inner = image.reshape(2, 44, 10, 44)[:, 2:-2, :, 2:-2]
  assert (inner.std((1, 3)) > 0).all()
