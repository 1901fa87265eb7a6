"""Tests the metrics log, its plot, TensorBoard and W&B, also after restarts."""

import errno
import importlib.machinery
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image
from tensorboardX.record_writer import RecordWriter

from core.errors import InputError
from sample.pictures import write_figure
from train import metrics_log as log
from train.metrics_log import MetricsLog, read_metrics
from train.plots import losses


def write(workdir, start, steps):
  with MetricsLog(workdir, start) as metrics:
    for step in steps:
      metrics.scalars(step, {'loss': 1 / step, 'loss/velocity': 0.5})


def lines(workdir):
  return (workdir / 'metrics.jsonl').read_text().splitlines()


def steps(workdir):
  return [json.loads(line)['step'] for line in lines(workdir)]


def test_lines_are_json_and_there_at_once(tmp_path):
  assert read_metrics(tmp_path) == []
  with MetricsLog(tmp_path, 0) as metrics:
    metrics.scalars(1, {'loss': 1.0, 'loss/velocity': 0.5})
    assert steps(tmp_path) == [1]
  write(tmp_path, 1, (2,))
  assert [json.loads(line) for line in lines(tmp_path)] == [
    {'step': 1, 'loss': 1.0, 'loss/velocity': 0.5},
    {'step': 2, 'loss': 0.5, 'loss/velocity': 0.5},
  ]
  assert read_metrics(tmp_path) == list(map(json.loads, lines(tmp_path)))


@pytest.mark.parametrize('start, kept', [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_restart_takes_back_later_lines(tmp_path, start, kept):
  write(tmp_path, 0, (1, 2, 3))
  before = lines(tmp_path)
  write(tmp_path, start, ())
  assert steps(tmp_path) == kept
  assert lines(tmp_path) == before[: len(kept)]
  write(tmp_path, start, (10,))
  assert steps(tmp_path) == [*kept, 10]


@pytest.mark.parametrize('damage', ['{"st', '{"step": 3, "loss": 0.', '\x00'])
def test_damaged_last_line_is_left_out(tmp_path, damage):
  write(tmp_path, 0, (1, 2))
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write(damage)
  assert [row['step'] for row in read_metrics(tmp_path)] == [1, 2]
  write(tmp_path, 2, (3,))
  assert steps(tmp_path) == [1, 2, 3]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(log.jax, 'process_index', lambda: 1)
  with MetricsLog(tmp_path, 0) as metrics:
    metrics.scalars(1, {'loss': 1.0})
    metrics.image(1, 'preview', np.zeros((4, 4, 1), np.uint8))
  assert not list(tmp_path.iterdir())


def test_writes_events_and_pictures(tmp_path):
  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  with MetricsLog(tmp_path, 0) as metrics:
    metrics.scalars(1, {'loss': 1.0})
    metrics.image(12, 'preview', image)
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert events.stat().st_size > 100
  picture = Image.open(tmp_path / 'previews' / '00000012.png')
  np.testing.assert_array_equal(picture, image)


def test_losses_are_drawn(tmp_path):
  rows = [
    {'images': 10 * n, 'loss': 1 / n, 'loss/intermediate_2': 2 / n}
    for n in (1, 2, 3)
  ]
  (figure,) = losses(rows).values()
  write_figure(tmp_path / 'loss.png', figure)
  picture = np.asarray(Image.open(tmp_path / 'loss.png').convert('L'))
  assert picture.shape[0] > 400
  assert picture.std() > 5


def test_config_is_a_text_of_tensorboard(tmp_path):
  with MetricsLog(tmp_path, 0, {'model': {'width': 96}}):
    pass
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert b'"width": 96' in events.read_bytes()


def test_a_disk_that_was_full_does_not_end_the_log(tmp_path, monkeypatch):
  """After 29 failed entries, the log must still write later entries."""
  with MetricsLog(tmp_path, 0) as metrics:
    with monkeypatch.context() as patch:
      patch.setattr(RecordWriter, 'write', no_space)
      for step in range(1, 30):
        metrics.scalars(step, {'loss': 1.0})
    metrics.scalars(30, {'score': 2.0})
  texts = [path.read_bytes() for path in (tmp_path / 'tensorboard').iterdir()]
  assert any(b'score' in text for text in texts)
  assert steps(tmp_path) == list(range(1, 31))


def no_space(*_):
  raise OSError(errno.ENOSPC, 'No space left on device')


class Recorded(types.ModuleType):
  def __init__(self):
    super().__init__('wandb')
    self.__spec__ = importlib.machinery.ModuleSpec('wandb', None)
    self.calls = []

  def init(self, **words):
    self.calls.append(('init', words))
    return self

  def log(self, values, step):
    self.calls.append(('log', step, values))

  def finish(self, exit_code):
    self.calls.append(('finish', exit_code))

  def Image(self, array):
    return array.shape


def test_weights_and_biases_is_told(tmp_path, monkeypatch):
  (tmp_path / 'other').mkdir()
  wandb = Recorded()
  monkeypatch.setitem(sys.modules, 'wandb', wandb)
  log.check_wandb('lab/dit')
  config = {'seed': 3}
  with MetricsLog(tmp_path, 0, config, 'lab/dit') as metrics:
    metrics.scalars(1, {'loss': 1.0, 'bad': float('nan')})
    metrics.image(1, 'preview', np.zeros((4, 4, 1), np.uint8))
  (_, told), *calls = wandb.calls
  assert (told['project'], told['entity']) == ('dit', 'lab')
  assert told['config'] == config and told['resume'] == 'allow'
  assert calls == [('log', 1, {'loss': 1.0}), ('log', 1, {'preview': (4, 4)}),
                   ('finish', 0)]  # fmt: skip
  wandb.calls.clear()
  with pytest.raises(ValueError), MetricsLog(tmp_path, 1, config, 'dit'):
    raise ValueError
  assert wandb.calls[0][1]['id'] == told['id']  # The W&B run resumes.
  assert wandb.calls[-1] == ('finish', 1)
  with MetricsLog(tmp_path / 'other', 0, config, 'dit'):
    assert wandb.calls[-1][1]['id'] != told['id']
  monkeypatch.delattr(Recorded, 'init')
  with pytest.raises(InputError, match='cannot be reached'):
    MetricsLog(tmp_path, 1, config, 'dit')


def test_weights_and_biases_is_missing(monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  log.check_wandb('')
  with pytest.raises(InputError, match='requirements-wandb'):
    log.check_wandb('dit')
