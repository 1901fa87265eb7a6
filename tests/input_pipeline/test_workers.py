import contextlib
import functools
import itertools
import multiprocessing
import os
import pickle
import struct

import grain
import jax
import numpy as np
import pytest

from core.errors import InputError
from dit.sharding import MeshConfig, make_mesh
from input_pipeline import workers
from input_pipeline.batches import batches
from input_pipeline.sources import DataConfig, open_source

OPTIONS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


def stream(data_dir, workers, start=0):
  config = DataConfig(
    'digits', str(data_dir), 'train', 'test', 2, 2, flip=True, workers=workers
  )
  source, mesh = open_source(config, 'train'), make_mesh(MeshConfig())
  return batches(source, config, mesh, batch_size=400, seed=3, start=start)


def test_the_batches_are_those_of_one_process(data_dir):
  """Compares steps 2 to 6. Epochs of 1,297 images end in steps 3 and 6."""
  expected = itertools.islice(stream(data_dir, 0), 2, 7)
  found = stream(data_dir, 2, start=2)
  for one, two in zip(expected, itertools.islice(found, 5), strict=True):
    assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
    assert one['image'].sharding == two['image'].sharding
  found.close()
  assert multiprocessing.active_children() == []


def step(parent, i):
  """Returns (i, whether it runs in `parent`, JAX platforms); fails at i = 3."""
  if i == 3:
    raise InputError('record 3 is damaged.')
  return i, os.getpid() == parent, jax.config.jax_platforms


def endless():
  dataset = grain.MapDataset.range(100).repeat()
  return dataset.map(functools.partial(step, os.getpid()))


@pytest.mark.slow
def test_an_error_in_a_worker_is_raised(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', '')  # as in a run on an accelerator
  elements = workers.read(endless(), OPTIONS, 2)
  assert list(itertools.islice(elements, 3)) == [
    (i, False, 'cpu') for i in range(3)
  ]
  with pytest.raises(InputError, match='record 3') as caught:
    next(elements)
  assert any('in step' in note for note in caught.value.__notes__)
  assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_is_missed():
  elements = workers.read(grain.MapDataset.range(9).repeat(), OPTIONS, 1)
  assert next(elements) == 0
  (worker,) = multiprocessing.active_children()
  worker.kill()
  with pytest.raises(RuntimeError, match=r'killed.*data\.workers=1'):
    list(elements)


@pytest.mark.parametrize(
  'sent',
  [b'', b'\0\0', struct.pack('!i', 100) + b'cut', struct.pack('!i', 2) + b'no'],
  ids=['between messages', 'in a length', 'in a message', 'no pickle'],
)
def test_a_worker_that_dies_within_a_message_is_missed(monkeypatch, sent):
  @contextlib.contextmanager
  def killed(*_):
    here, there = multiprocessing.Pipe(duplex=False)
    os.write(there.fileno(), sent)
    there.close()
    yield here
    here.close()

  monkeypatch.setattr(workers, '_worker', killed)
  with pytest.raises(workers.ReadError, match=r'killed.*data\.workers=1'):
    next(workers.read(endless(), OPTIONS, 1))


class TwoPartError(Exception):
  """An error that cannot be unpickled, because it takes two arguments."""

  def __init__(self, one, two):
    super().__init__(f'{one} and {two}')


def test_an_error_without_a_pickle_arrives_as_its_text():
  error = TwoPartError('this', 'that')
  error.add_note('in step')
  portable = pickle.loads(pickle.dumps(workers._portable(error)))
  assert type(portable) is workers.ReadError
  assert 'TwoPartError: this and that' in str(portable)
  assert portable.__notes__[0] == 'in step'
