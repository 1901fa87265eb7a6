import dataclasses

import numpy as np
import pytest

from core.errors import InputError
from dit.sharding import MeshConfig, make_mesh
from evaluate.classifier import FEATURES, train_classifier
from evaluate.compare import CompareConfig, open_evaluators, score
from evaluate.compare_table import Row, format_table
from evaluate.evaluator import EvalConfig
from evaluate.frechet import Moments, bootstrap, frechet_distance
from evaluate.metrics import Estimate

CONFIG = CompareConfig(num=4, methods=('none',), resamples=2)


@pytest.mark.parametrize(('change', 'message'), [
  ({'num': 1}, 'an integer from 2 to'),
  ({'resamples': 1}, 'an integer from 2 to'),
  ({'methods': ('none', 'cfgg:2')}, "mean 'cfg'"),
  ({'methods': ('ig:2,ig:3',)}, 'names ig twice'),
])  # fmt: skip
def test_config_errors(change, message):
  with pytest.raises(InputError, match=message):
    dataclasses.replace(CONFIG, **change)


def scores(features, pixels, accuracy):
  return {'features': Estimate(*features), 'pixels': Estimate(*pixels),
          'accuracy': Estimate(accuracy)}  # fmt: skip


def test_table():
  rows = [
    Row('none', scores((10, 3), (2, 0.3), 0.75), 50.0, 120.4, (0.0, 0.0)),
    Row('ig:1.5,cfg:1.2@0-0.7', scores((5, 4), (2.5, 0.4), 0.8), 85.25, 60.0,
        (1.04, -12.96), cfg_scale=Estimate(1.234, 0.1)),
    Row('cfg:1.234', scores((5, 4), (2.5, 0.4), 0.8), 100.0, 60.0, (1.0, 2.0),
        matches='ig:1.5,cfg:1.2@0-0.7'),
    Row('real, held out', scores((1, 0.1), (0.5, 0.05), 0.9876)),
  ]  # fmt: skip
  header, line, *body = format_table(rows).splitlines()
  cells = [[c.strip() for c in row.split('|')[1:-1]] for row in body]
  assert {len(row) for row in cells} == {header.count('|') - 1}
  assert set(line) == {'|', '-'} and line.count('|') == header.count('|')
  assert cells == [
    ['none', '', '50', '10.00 ± 3.00', '2.000 ± 0.300', '75.0%', '', '120',
     ''],
    ['IG + CFG', '1.5, 1.2@0-0.7', '85.25', '5.00 ± 4.00', '2.500 ± 0.400',
     '80.0%', '1.23', '60', '+1.0, -13.0 se'],
    ['CFG at the scale of ig:1.5,cfg:1.2@0-0.7', '1.234', '100', '5.00 ± 4.00',
     '2.500 ± 0.400', '80.0%', '', '60', '+1.0, +2.0 se'],
    ['real, held out', '', '', '1.00 ± 0.10', '0.500 ± 0.050', '98.8%', '',
     '', ''],
  ]  # fmt: skip


def toy(count, seed):
  """Returns images (bright at the top, the left or everywhere) and labels."""
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % 3
  images = rng.integers(0, 60, (count, 8, 8, 1))
  images[labels == 0, :4] += 150
  images[labels == 1, :, :4] += 150
  images[labels == 2] += 150
  return images.astype(np.uint8), labels


@pytest.fixture(scope='module')
def classifier():
  return train_classifier(*toy(90, 0), 3, steps=40, batch_size=32)


def open_toy_evaluators(images, network, resamples=5):
  config = EvalConfig(bootstrap=resamples, batch_size=16)
  return open_evaluators(images, network, config, make_mesh(MeshConfig()))


@pytest.mark.slow
def test_classifier_learns(classifier):
  images, labels = toy(60, 1)
  features, predictions = classifier(images)
  assert (predictions == labels).mean() > 0.95
  assert features.shape == (60, FEATURES)
  # The features of every image have a mean square of 1.
  np.testing.assert_allclose(np.square(features).mean(1), 1, rtol=1e-3)


def test_scores(classifier):
  images, labels = toy(60, 1)
  evaluators = open_toy_evaluators(images, classifier)
  same = score(evaluators, images, labels)
  assert same['accuracy'].value > 0.95
  for space in ('features', 'pixels'):
    assert abs(same[space].value) < 1e-5
    resampled = same[space].resampled
    assert resampled.shape == (5,)
    assert same[space].error == resampled.std(ddof=1) > 0
  wrong = score(evaluators, images, (labels + 1) % 3)
  assert wrong['accuracy'].value < 0.05


def test_scores_are_frechet_distances(classifier):
  """Scores are Frechet distances of features or pixels, also in bootstraps."""
  real, _ = toy(90, 0)
  images, labels = toy(60, 1)
  images = images // 2
  scores = score(open_toy_evaluators(real, classifier), images, labels)
  for space, rows in (
    ('features', lambda x: classifier(x)[0]),
    ('pixels', lambda x: x.reshape(len(x), -1) / 127.5 - 1),
  ):
    reference = Moments.of(rows(real))
    expected = frechet_distance(Moments.of(rows(images)), reference)
    resampled = bootstrap(rows(images), reference, 5)
    assert scores[space].value == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(scores[space].resampled, resampled, rtol=1e-4)


def test_shifted_pixels(classifier):
  rng = np.random.default_rng(0)
  images = rng.integers(51, 256, (20, 8, 8, 1)).astype(np.uint8)
  evaluators = open_toy_evaluators(images, classifier)
  # Each of 64 pixels changes by 51 of 255 levels, which is 0.4 in [-1, 1].
  scores = score(evaluators, images - np.uint8(51), np.zeros(20, int))
  assert scores['pixels'].value == pytest.approx(64 * 0.4**2)


def test_gain():
  far = Estimate(10.0, resampled=np.asarray([9.0, 10, 11]))
  near = Estimate(4.0, resampled=np.asarray([3.0, 6, 5]))
  error = np.std([6, 4, 6], ddof=1)
  assert far.minus(near).error == pytest.approx(error)
  assert far.gain(near) == pytest.approx(6 / error)
  assert near.gain(far) == pytest.approx(-6 / error)
  assert far.gain(far) == 0
