"""Tests `train_features`, which the command `train-features` calls."""

import dataclasses

import numpy as np
import pytest
import refusals

from commands import train_features
from dit.sharding import make_mesh
from evaluate.classifier import load
from evaluate.real_images import load_images
from input_pipeline.sources import load_all, open_source


@pytest.mark.slow
def test_digits(make_experiment, tmp_path):
  experiment = make_experiment()
  folder = tmp_path / 'features'
  report = train_features.train_features(experiment, folder, steps=10)
  classifier, about = load(folder)
  held_out, labels = load_all(open_source(experiment.data, 'test'))
  accuracy = (classifier(held_out)[1] == labels).mean()
  assert accuracy > 0.3
  assert about['held_out_accuracy'] == accuracy
  assert f'{accuracy:.1%} accuracy on 500' in report and '\n' not in report
  assert len(about['images_sha256']) == 64
  assert (about['data'], about['images'], about['steps'], about['seed']) == (
    'digits', 1297, 10, experiment.seed,
  )  # fmt: skip

  with refusals.refused('exists'):
    train_features.train_features(experiment, folder)


@pytest.fixture
def no_training(monkeypatch):
  monkeypatch.setattr(train_features, 'train_classifier', None)


def refused(experiment, tmp_path, records=None, monkeypatch=None, **kwargs):
  if records is not None:
    monkeypatch.setattr(train_features, 'open_source', lambda *args: records)
  with refusals.refused() as caught:
    train_features.train_features(experiment, tmp_path / 'features', **kwargs)
  assert not (tmp_path / 'features').exists()
  return str(caught.value)


def image(side=8, label=0):
  return {'image': np.zeros((side, side, 1), np.uint8), 'label': label}


@pytest.mark.parametrize(('records', 'message'), [
  ([], 'empty'),
  ([{'label': 0, 'moments': np.zeros((1, 4, 4, 8))}], 'images are needed'),
  ([{'image': np.zeros((8, 8, 1), np.uint8)}], 'class-labeled'),
  ([{'label': 0}], 'class-labeled'),
  ([image(8), image(9)], 'resize them to one size'),
  ([image(8), image(8, 10)], 'set it to 11'),
])  # fmt: skip
def test_unfit_records(
  make_experiment, tmp_path, monkeypatch, no_training, records, message
):
  said = refused(make_experiment(), tmp_path, records, monkeypatch)
  assert message in said


def test_images_have_no_autoencoder(make_experiment, tmp_path, no_training):
  experiment = make_experiment()
  data = dataclasses.replace(experiment.data, autoencoder='sd_vae')
  said = refused(dataclasses.replace(experiment, data=data), tmp_path)
  assert 'holds images; set data.autoencoder=pixels' in said


def test_steps_must_be_positive(make_experiment, tmp_path, no_training):
  assert '--steps is 0' in refused(make_experiment(), tmp_path, steps=0)


def test_large_sets_are_drawn_from(make_experiment):
  experiment = make_experiment()
  source = open_source(experiment.data, 'train')
  images, labels = load_images(
    source, None, make_mesh(experiment.mesh), 64, 300 * 64
  )
  assert images.shape == (300, 8, 8, 1) and labels.shape == (300,)
  whole, _ = load_all(source)
  assert {i.tobytes() for i in images} <= {i.tobytes() for i in whole}
  assert len(np.unique(labels)) == 10
