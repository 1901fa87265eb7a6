import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from core.errors import NonFiniteError
from dit import model
from dit.sharding import make_mesh, replicated
from dit.weights.restore import restore_weights
from train import loop
from train.checkpointer import Checkpointer
from train.experiment import build
from train.metrics_log import read_metrics
from train.previews import Previews
from train.setup import open_setup
from train.workdir import claim

KEEP = ('checkpoint.every_images=80', 'log.every_images=16')


def weights(workdir, experiment):
  mesh = make_mesh(experiment.mesh)
  return restore_weights(workdir, experiment.model, mesh, 'raw')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, make_experiment):
  """Trains for ten steps; records which steps are in the log at each save."""
  workdir = epath.Path(tmp_path_factory.mktemp('run'))
  experiment = make_experiment(*KEEP, 'train.images=160')
  logged, steps, make = {}, [], loop.make_train_step

  class Spy(Checkpointer):
    def save(self, state, step, *rest):
      assert state.step == step
      logged[step] = [row['step'] for row in read_metrics(workdir)]
      super().save(state, step, *rest)

  def recorded(*args):
    steps.append(make(*args))
    return steps[-1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, 'Checkpointer', Spy)
    patch.setattr(loop, 'make_train_step', recorded)
    loop.train(open_setup(experiment), workdir)
  (step,) = steps
  return workdir, experiment, logged, step._cache_size()


def test_steps_are_logged_before_they_are_saved(trained):
  """After a kill, the log must contain the step of the last save."""
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
  lr = experiment.optimizer.lr  # learning rate of step 2
  rates = [row['lr'] for row in read_metrics(workdir)]
  np.testing.assert_allclose(rates[:3], [lr / 2, lr, lr], rtol=1e-5)
  assert rates[2:] == sorted(rates[2:], reverse=True)
  assert rates[-1] > experiment.optimizer.end_fraction * lr


@pytest.mark.slow
def test_longer_run_goes_on_until_nothing_is_finite(
  trained, make_experiment, tmp_path, caplog
):
  """The run must not save weights that a huge learning rate has ruined."""
  workdir, experiment, *_ = trained
  before, _ = weights(workdir, experiment)
  exploding = make_experiment(
    *KEEP, 'train.images=1600', 'checkpoint.every_images=16',
    'optimizer.lr=1e30', 'optimizer.clip=0', 'train.max_bad_steps=4',
  )  # fmt: skip
  caplog.set_level('INFO')
  with pytest.raises(NonFiniteError, match='4 steps in a row') as error:
    loop.train(open_setup(exploding), workdir)
  assert '\n' not in str(error.value)
  seconds = read_metrics(workdir)[0]['compile_seconds']
  assert (
    f'Compiling the step ({seconds:.0f} s at the last start).' in caplog.text
  )
  after, step = weights(workdir, experiment)
  assert step == 10
  jax.tree.map(np.testing.assert_array_equal, after, before)
  last = read_metrics(workdir)[-1]
  assert 10 < last['step'] < 20
  assert last['bad_steps'] == 3


LENGTHS = ('log.every_images=16', 'optimizer.schedule=constant')


def trained_to(images, workdir, make_config):
  """Trains or extends a run to `images`; returns its state and losses."""
  config = make_config(*LENGTHS, f'train.images={images}')
  experiment = build(config)
  place = claim(workdir, config)
  assert loop.train(open_setup(experiment), place)
  _, _, abstract = loop.plan(experiment, make_mesh(experiment.mesh))
  with Checkpointer(place, experiment.checkpoint) as checkpointer:
    state = checkpointer.restore(abstract)
  return state, [(row['step'], row['loss']) for row in read_metrics(place)]


@pytest.mark.slow
def test_longer_run_is_that_of_its_length(make_config, tmp_path):
  """Extending a short run equals one long run, for a constant schedule."""
  first, _ = trained_to(48, tmp_path / 'ours', make_config)
  ours, our_losses = trained_to(96, tmp_path / 'ours', make_config)
  theirs, their_losses = trained_to(96, tmp_path / 'theirs', make_config)
  assert (first.step, ours.step) == (3, 6)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert our_losses == their_losses


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


def test_preview_is_a_grid_of_classes(make_experiment):
  experiment = make_experiment(
    'log.preview_every_images=16', 'log.preview_num=20', 'sample.steps=2'
  )
  mesh = make_mesh(experiment.mesh)
  init = jax.jit(model.init, static_argnums=0)
  params = init(experiment.model, jax.random.key(0))
  preview = Previews(experiment, mesh)
  image = preview.draw(jax.device_put(params, replicated(mesh)))
  assert image.dtype == np.uint8
  # Ten columns show 20 images of 40 pixels, with two pixels around each image.
  assert image.shape == (2 * 44, 10 * 44, 1)
  inner = image.reshape(2, 44, 10, 44)[:, 2:-2, :, 2:-2]
  assert (inner.std((1, 3)) > 0).all()
