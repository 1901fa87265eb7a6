"""A class name has the same label in all splits of a dataset."""

import json

import numpy as np
import pytest
from command_runs import run
from PIL import Image
from refusals import refused

from input_pipeline.records import LatentSource
from input_pipeline.sources import DataConfig, open_source

# Each class has its own gray value, so tests can identify classes by color.
COLORS = {'cat': 50, 'dog': 100, 'fox': 150, 'owl': 200}


@pytest.fixture
def prepare(tmp_path):

  def prepare(split, *classes, empty=(), name='pets'):
    images = tmp_path / 'images' / split
    for k, label in enumerate(classes):
      (images / label).mkdir(parents=True, exist_ok=True)
      values = np.full((8, 8, 3), COLORS[label], np.uint8)
      values[0] += np.uint8(k)
      Image.fromarray(values).save(images / label / '0.png')
    for label in empty:
      (images / label).mkdir(parents=True)
    return run(
      'prepare', f'--images={images}', f'--split={split}',
      f'--config.data.name={name}', f'--config.data.dir={tmp_path}',
      '--image_size=8', '--batch_size=8',
    )  # fmt: skip

  return prepare


def labels(folder):
  """Returns {class: label}. The color of a record identifies its class."""
  found = {}
  for record in LatentSource(folder):
    color = int(record['pixels'][0, -1, 0, 0])
    name = next(name for name in COLORS if COLORS[name] == color)
    found[name] = int(record['label'])
  return found


def data_config(folder, train='train', test='test'):
  return DataConfig('pets', str(folder), train, test, 1, 2)


def test_a_split_that_lacks_a_class_keeps_the_labels(prepare, tmp_path):
  assert prepare('train', 'cat', 'dog', 'fox').status == 0
  result = prepare('test', 'fox', 'cat')
  assert result.status == 0, result.err
  assert labels(tmp_path / 'pets' / 'test') == {'cat': 0, 'fox': 2}
  metadata = json.loads((tmp_path / 'pets/test/metadata.json').read_text())
  assert metadata['classes'] == ['cat', 'dog', 'fox']
  assert metadata['counts'] == [1, 0, 1]
  assert 'has no record of the classes dog' in result.err
  for split in ('train', 'test'):
    assert len(open_source(data_config(tmp_path), split)) in (2, 3)
  assert prepare('train', 'cat', 'dog', 'fox').status == 0
  assert prepare('test', 'fox', 'cat').status == 0


def test_an_empty_class_keeps_its_label(prepare, tmp_path):
  result = prepare('train', 'cat', 'fox', empty=['dog'])
  assert result.status == 0 and 'no image in the folders dog' in result.err
  assert labels(tmp_path / 'pets' / 'train') == {'cat': 0, 'fox': 2}


def test_a_class_that_other_splits_lack_is_refused(prepare, tmp_path):
  assert prepare('test', 'cat', 'fox').status == 0
  result = prepare('train', 'cat', 'dog', 'fox')
  assert result.status == 2
  line = result.err.strip().splitlines()[-1]
  assert '3 classes (cat, dog, fox)' in line
  assert '2 classes (cat, fox), without dog' in line
  assert f'delete {tmp_path}/pets/test and prepare first' in line
  assert not (tmp_path / 'pets' / 'train').exists()


def test_an_unfinished_split_has_its_classes_already(prepare, tmp_path):
  assert prepare('train', 'cat', 'dog').status == 0
  (tmp_path / 'pets' / 'train' / 'metadata.json').unlink()
  assert prepare('val', 'owl').status == 2
  assert prepare('test', 'dog').status == 0
  assert labels(tmp_path / 'pets' / 'test') == {'dog': 1}


def test_a_damaged_split_beside_it_is_named(prepare, tmp_path):
  (tmp_path / 'pets' / 'test').mkdir(parents=True)
  for text in ('{', '[]', '{}'):
    (tmp_path / 'pets' / 'test' / 'protocol.json').write_text(text)
    result = prepare('train', 'cat')
    assert result.status == 2 and 'test/protocol.json is damaged' in result.err


def test_splits_with_other_lists_are_not_opened(prepare, tmp_path):
  """Old versions of `prepare` could write splits with different classes."""
  assert prepare('train', 'cat', 'dog', 'fox').status == 0
  assert prepare('test', 'cat', 'fox', name='others').status == 0
  (tmp_path / 'others' / 'test').rename(tmp_path / 'pets' / 'test')
  for split in ('train', 'test'):
    advice = f'delete {tmp_path}/pets/test and prepare it'
    with refused('3 classes (cat, dog, fox)', advice):
      open_source(data_config(tmp_path), split)
  # If the config names only one split, this split can be opened.
  assert len(open_source(data_config(tmp_path, test=''), 'train')) == 3


def test_splits_begun_at_once_do_not_both_go_on(prepare, tmp_path, monkeypatch):
  assert prepare('test', 'cat', 'fox').status == 0
  # The patch simulates two runs of `prepare` that start at the same time.
  monkeypatch.setattr(
    'commands.prepare.classes_for', lambda folder, names: names
  )
  result = prepare('train', 'cat', 'dog', 'fox')
  assert result.status == 2 and 'labels do not agree' in result.err
