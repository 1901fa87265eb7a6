"""Tests the digits dataset, and the order of records in batches."""

import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest
from command_runs import ROOT
from sklearn.datasets import load_digits

import input_pipeline.batches as batches_module
from core.errors import InputError
from dit.sharding import MeshConfig, make_mesh
from input_pipeline.batches import batches, rows_here
from input_pipeline.sources import (
  DataConfig,
  check_source,
  load_all,
  open_source,
)


def settings(data_dir, name='digits', threads=1):
  return DataConfig(name, str(data_dir), 'train', 'test', threads, 2)


@pytest.fixture(scope='module')
def splits(data_dir):
  config = settings(data_dir)
  return [load_all(open_source(config, split)) for split in ('train', 'test')]


@pytest.mark.parametrize('split, count', [(0, 1297), (1, 500)])
def test_digits_have_their_sizes(splits, split, count):
  images, labels = splits[split]
  assert images.shape == (count, 8, 8, 1) and images.dtype == np.uint8
  assert labels.shape == (count,) and set(labels) == set(range(10))


def test_digits_are_those_of_scikit_learn(splits):
  images, labels = map(np.concatenate, zip(*splits, strict=True))
  values = images.reshape(-1, 64) / (255 / 16)
  np.testing.assert_allclose(values, np.round(values), atol=0.04)
  ours = np.column_stack([np.round(values), labels])
  theirs = np.column_stack(load_digits(return_X_y=True))
  assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_every_split_mixes_all_writers(splits):
  """The file is sorted by writer, so both splits must be random."""
  digits, _ = load_digits(return_X_y=True)
  position = {tuple(digit): i for i, digit in enumerate(digits)}
  values = np.round(splits[1][0].reshape(-1, 64) / (255 / 16))
  held_out = [position[tuple(value)] for value in values]
  counts, _ = np.histogram(held_out, bins=6, range=(0, 1797))
  assert counts.min() > 50


def test_digits_are_written_once(data_dir):
  def stamps():
    return {path: path.stat().st_mtime_ns for path in data_dir.rglob('*')}

  before = stamps()
  open_source(settings(data_dir), 'test')
  assert stamps() == before


def test_reading_loads_no_tensorflow(tmp_path):
  code = (
    'import sys\n'
    'from input_pipeline.sources import DataConfig, load_all, open_source\n'
    f'config = DataConfig("digits", {str(tmp_path)!r}, "train", "test", 1, 2)\n'
    'assert len(load_all(open_source(config, "train"))[0]) == 1297\n'
    'assert not {"tensorflow", "torch"} & set(sys.modules)\n'
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True,
                          capture_output=True, timeout=240)  # fmt: skip
  assert result.returncode == 0, result.stderr
  assert result.stdout == ''


class Source:
  def __len__(self):
    return 12

  def __getitem__(self, i):
    image = np.full((2, 2, 1), i, np.uint8)
    return {'image': image, 'label': i, 'file_name': 'left out'}


def stream(tmp_path, threads=1, **changes):
  order = {'batch_size': 8, 'seed': 0, 'start': 0} | changes
  config = settings(tmp_path, threads=threads)
  return batches(Source(), config, make_mesh(MeshConfig()), **order)


def labels_of(stream, count):
  return np.stack(
    [np.asarray(batch['label']) for batch in itertools.islice(stream, count)]
  )


def test_batches_are_cut_over_all_devices(tmp_path):
  batch = next(stream(tmp_path))
  assert batch.keys() == {'image', 'label'}
  assert batch['image'].shape == (8, 2, 2, 1)
  assert (batch['image'].dtype, batch['label'].dtype) == (np.uint8, np.int32)
  for leaf in batch.values():
    assert len(leaf.sharding.device_set) == 8
    assert leaf.addressable_shards[0].data.shape[0] == 1
  np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['label'])


def test_every_epoch_is_another_permutation(tmp_path):
  # Nine batches of eight records are six epochs of twelve records.
  epochs = labels_of(stream(tmp_path), 9).reshape(6, 12)
  assert (np.sort(epochs, axis=1) == np.arange(12)).all()
  assert len({tuple(epoch) for epoch in epochs}) == 6
  assert not any((epoch == np.arange(12)).all() for epoch in epochs)


@pytest.mark.parametrize('start', [1, 2, 5, 9])
@pytest.mark.parametrize('threads', [1, 4])
def test_starting_late_is_skipping(tmp_path, start, threads):
  straight = labels_of(stream(tmp_path), start + 4)
  late = labels_of(stream(tmp_path, start=start, threads=threads), 4)
  np.testing.assert_array_equal(late, straight[start:])


def test_seeds_differ(tmp_path):
  first, again, other = (
    labels_of(stream(tmp_path, seed=seed), 3) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_sequence_does_not_depend_on_the_batch_size(tmp_path):
  small = labels_of(stream(tmp_path, batch_size=8), 6)
  large = labels_of(stream(tmp_path, batch_size=16), 3)
  np.testing.assert_array_equal(small.ravel(), large.ravel())


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_processes_share_the_batches_of_one(tmp_path, monkeypatch, processes):
  """Several processes together read the same batches as one process."""
  whole = labels_of(stream(tmp_path), 6)
  monkeypatch.setattr(batches_module, '_global', lambda values, *_: values)
  rows = np.random.default_rng(0).permutation(whole.shape[1])
  for mine in np.split(rows, processes):
    mine.sort()
    monkeypatch.setattr(batches_module, 'rows_here', lambda *_, mine=mine: mine)
    part = labels_of(stream(tmp_path, start=2), 4)
    np.testing.assert_array_equal(part, whole[2:, mine])


@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 2, 2), (1, 8, 1)])
def test_rows_lie_where_the_mesh_has_them(tmp_path, sizes):
  """Each device has the rows of its mesh position, in any device order."""
  devices = np.random.default_rng(1).permutation(np.asarray(jax.devices()))
  mesh = make_mesh(MeshConfig(*sizes), devices.tolist())
  config, order = settings(tmp_path), {'batch_size': 16, 'seed': 0, 'start': 3}
  batch = next(batches(Source(), config, mesh, **order))
  whole = labels_of(stream(tmp_path, batch_size=16), 4)[3]
  np.testing.assert_array_equal(batch['label'], whole)
  assert len(rows_here(batch['label'].sharding, 16)) == 16
  for shard in batch['label'].addressable_shards:
    np.testing.assert_array_equal(shard.data, whole[shard.index])


@pytest.mark.parametrize('name, split, message', [
  ('cifar10', 'train', "no data: 'cifar10' is not prepared"),
  ('cifar11', 'train', "'cifar11' is neither"),
  ('digits', 'valid', r"no split 'valid'.* train, test"),
])  # fmt: skip
def test_data_that_are_not_there(tmp_path, data_dir, name, split, message):
  folder = data_dir if name == 'digits' else tmp_path
  with pytest.raises(InputError, match=message):
    open_source(settings(folder, name=name), split)
  assert not list(tmp_path.iterdir())


def test_slices_of_splits_are_read(data_dir):
  assert len(open_source(settings(data_dir), 'train[:10%]')) == 130


@pytest.mark.parametrize('source, message', [
  ([], 'no data'),
  ([{'image': np.zeros((8, 8, 1), np.uint8)}], r"without \['label'\]"),
])  # fmt: skip
def test_records_need_a_label(make_experiment, source, message):
  experiment = make_experiment()
  with pytest.raises(InputError, match=message):
    check_source(source, experiment.data, experiment.model)


@pytest.mark.parametrize('key', ['size=16', 'channels=3'])
def test_shapes_must_agree(data_dir, make_experiment, key):
  experiment = make_experiment(f'model.{key}')
  source = open_source(settings(data_dir), 'train')
  with pytest.raises(InputError, match=r'shape \(8, 8, 1\), but model.size'):
    check_source(source, experiment.data, experiment.model)


def test_unwritable_folder_is_refused(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(InputError, match=r'data\.dir|cannot be written'):
    open_source(settings(tmp_path / 'file' / 'data'), 'train')
