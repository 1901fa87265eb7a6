"""Tests that the classifier of a dataset is trained once and found again."""

import jax
import numpy as np
import pytest
from networks import assert_same

from evaluate import classifier
from evaluate.classifier_cache import trained_once

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(20, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(20) % 4


@pytest.fixture
def train(tmp_path, monkeypatch):
  """Returns a function that trains for two steps or loads."""
  monkeypatch.setattr(classifier, 'recipe', lambda shape: (2, 8))

  def run(images=IMAGES, labels=LABELS, **options):
    options = {'data_dir': tmp_path / 'data', 'name': 'a/b', **options}
    return trained_once(images, labels, 4, **options)

  return run


def refuse(*args, **kwargs):
  raise AssertionError('a classifier was trained')


def test_the_second_call_loads(train, tmp_path, monkeypatch):
  first = train()
  (folder,) = (tmp_path / 'data' / 'classifiers').iterdir()
  assert folder.name.startswith('a-b-')
  monkeypatch.setattr(classifier, 'train_classifier', refuse)
  again = train(labels=LABELS.astype(np.int64))
  assert_same(jax.device_get(first.params), again.params)
  assert again.shape == (8, 8, 1)


def test_other_data_or_settings_train_another(train, tmp_path):
  changed = IMAGES.copy()
  changed[0, 0, 0] ^= 1
  for options in (
    {}, {'images': changed}, {'labels': LABELS[::-1]}, {'flip': True},
  ):  # fmt: skip
    train(**options)
  assert len(list((tmp_path / 'data' / 'classifiers').iterdir())) == 4


def test_a_folder_that_cannot_be_written_is_no_error(train, tmp_path, caplog):
  (tmp_path / 'file').write_text('')
  network = train(data_dir=tmp_path / 'file')
  assert network.num_classes == 4
  assert 'not stored' in caplog.text


def test_a_damaged_classifier_is_replaced(train, tmp_path, caplog):
  first = train()
  (folder,) = (tmp_path / 'data' / 'classifiers').iterdir()
  (folder / 'weights.safetensors').write_bytes(b'damaged')
  again = train()
  assert 'is replaced' in caplog.text
  assert_same(again.params, first.params)
  classifier.load(folder)
