"""The embedded classifier, and the scores made with it."""

import numpy as np
import pytest

from evaluate.classifier import FEATURES, train_classifier
from evaluate.frechet import Moments
from evaluate.scorer import Distance, Scorer


def toy(count, seed):
  """Noisy images, bright in the top, the left or the whole; labels."""
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


def test_classifier_learns(classifier):
  images, labels = toy(60, 1)
  features, predictions = classifier(images)
  assert (predictions == labels).mean() > 0.95
  assert features.shape == (60, FEATURES)
  # Normalised: bounded whatever the image.
  np.testing.assert_allclose(np.square(features).mean(1), 1, rtol=1e-3)


def test_scores(classifier):
  images, labels = toy(60, 1)
  scorer = Scorer(
    classifier,
    Moments.of(classifier(images)[0]),
    Moments.of(images.reshape(60, -1) / 127.5 - 1),
    resamples=5,
  )
  same = scorer(images, labels)
  assert abs(same.features.value) < 1e-5 and abs(same.pixels.value) < 1e-5
  assert same.accuracy > 0.95
  for distance in (same.features, same.pixels):
    assert distance.resampled.shape == (5,)
    assert distance.error == distance.resampled.std(ddof=1) > 0
  assert scorer(images, (labels + 1) % 3).accuracy < 0.05


def test_shifted_pixels():
  rng = np.random.default_rng(0)
  images = rng.integers(51, 256, (20, 4, 4, 1)).astype(np.uint8)
  scorer = Scorer(
    lambda images: (rng.normal(size=(len(images), 2)), np.zeros(len(images))),
    Moments(np.zeros(2), np.eye(2)),
    Moments.of(images.reshape(20, -1) / 127.5 - 1),
    resamples=2,
  )
  # Darker by 51 of 255: by 0.4 in each of 16 pixels.
  scores = scorer(images - np.uint8(51), np.zeros(20))
  assert scores.pixels.value == pytest.approx(16 * 0.4**2)


def test_gain():
  far = Distance(10.0, np.asarray([9.0, 10, 11]))
  near = Distance(4.0, np.asarray([3.0, 6, 5]))
  # The differences are 6, 4 and 6.
  error = np.std([6, 4, 6], ddof=1)
  assert far.gain(near) == pytest.approx(6 / error)
  assert near.gain(far) == pytest.approx(-6 / error)
  assert far.gain(far) == 0
