import signal
from unittest import mock

import numpy as np
import pytest

from core.errors import InputError
from dit.weights.checkpoint_names import saved_steps
from sample.generate import Sampler
from train import loop
from train.metrics_log import read_metrics
from train.setup import open_setup
from train.workdir import claim

EVERY = ('eval.every_images=80', 'checkpoint.every_images=80', 'eval.num=32',
         'sample.steps=2', 'sample.batch_size=32')  # fmt: skip
MINE = """
def means(x):
  return x.reshape(len(x), 2, 4, 2, 4).mean((2, 4)).reshape(len(x), -1)
"""


def mine(tmp_path, name='means'):
  (tmp_path / 'mine.py').write_text(MINE)
  extractor = f'eval.extractor={tmp_path}/mine.py:{name}'
  return extractor, "eval.metrics=('fd','recall')"


@pytest.mark.slow
def test_scores_are_logged_and_rank_checkpoints(
  tmp_path, make_config, make_experiment
):
  assignments = (
    *EVERY, *mine(tmp_path), 'checkpoint.best_by=fd', 'checkpoint.keep=1',
    'checkpoint.keep_best=1', 'train.images=320',
  )  # fmt: skip
  workdir = claim(tmp_path / 'run', make_config(*assignments))
  assert loop.train(open_setup(make_experiment(*assignments)), workdir)
  rows = {row['step']: row for row in read_metrics(workdir) if 'eval/fd' in row}
  assert list(rows) == [5, 10, 15, 20]
  assert all(row['images'] == 16 * step for step, row in rows.items())
  assert all(0 <= row['eval/recall'] <= 1 for row in rows.values())
  best = min(rows, key=lambda step: rows[step]['eval/fd'])
  assert set(saved_steps(workdir)) == {best, 20}
  assert (workdir / 'loss.png').exists()


@pytest.mark.slow
def test_training_does_not_depend_on_being_measured(
  tmp_path, make_config, make_experiment
):
  losses = []
  for name, more in (('a', mine(tmp_path)), ('b', ('eval.every_images=0',))):
    assignments = (*EVERY, *more, 'train.images=160', 'log.every_images=16')
    workdir = claim(tmp_path / name, make_config(*assignments))
    loop.train(open_setup(make_experiment(*assignments)), workdir)
    rows = read_metrics(workdir)
    losses.append([row['loss'] for row in rows if 'loss' in row])
  np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize(('assignments', 'words'), [
  (('checkpoint.best_by=fd',), 'eval.every_images does not measure'),
  (
    ('checkpoint.best_by=fd', 'eval.every_images=96',
     'checkpoint.every_images=80'),
    'at every checkpoint',
  ),
  (
    (*EVERY, 'checkpoint.best_by=fd', "eval.metrics=('recall',)"),
    'what is measured is recall',
  ),
  ((*EVERY, 'checkpoint.best_by=is'), 'what is measured is fd'),
  ((*EVERY, 'eval.extractor=incepton:x'), 'expected inception:FILE'),
  ((*EVERY, 'eval.batch_size=12'), 'eval.batch_size'),
  ((*EVERY, 'eval.num=3'), '3 images are too few'),
  (('eval.num=2', 'eval.repeats=3'), 'eval.repeats=3'),
  ((*EVERY, 'eval.guidance=s3:2'), 's3'),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_at_the_start(
  make_experiment, assignments, words
):
  with pytest.raises(InputError, match=words.replace('.', r'\.')):
    open_setup(make_experiment(*assignments))


@pytest.mark.slow
def test_a_signal_ends_an_evaluation(tmp_path, make_config, make_experiment):
  """After a signal during scoring, the run saves its state and stops."""
  assignments = (*EVERY, *mine(tmp_path), 'train.images=320')
  workdir = claim(tmp_path / 'run', make_config(*assignments))
  drawn = []

  def batches(*args, **kwargs):
    for batch in real(*args, **kwargs):
      drawn.append(len(batch.index))
      signal.raise_signal(signal.SIGTERM)
      yield batch

  real = Sampler.batches
  with mock.patch.object(Sampler, 'batches', batches):
    assert not loop.train(open_setup(make_experiment(*assignments)), workdir)
  assert drawn == [32]
  assert saved_steps(workdir) == [5]
  assert not any('eval/fd' in row for row in read_metrics(workdir))


def test_accuracy_ranks_the_other_way(make_experiment):
  from dit.sharding import make_mesh
  from train.previews import Scores

  for best, values, expected in (
    ('accuracy', {'eval/accuracy': 0.9}, -0.9),
    ('fd', {'eval/fd': 2.0}, 2.0),
    ('fd', {}, np.inf),
    ('precision', {}, np.inf),
    ('loss', {}, 0.5),
  ):
    experiment = make_experiment(*EVERY, f'checkpoint.best_by={best}')
    scores = Scores(experiment, make_mesh(experiment.mesh))
    assert scores.rank(values, 0.5) == expected
