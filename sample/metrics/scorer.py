"""Scores of a set of images against real ones.

Distances are Frechet distances to the reference images, in the features of the
embedded classifier and in pixels; accuracy is how often the classifier reads
the label that an image was drawn for. With so few images as on a laptop a
figure means little without its standard error, so each has one.
"""

import dataclasses

import numpy as np

from sample.metrics.classifier import Classifier, train_classifier
from sample.metrics.frechet import Moments, bootstrap, frechet_distance


@dataclasses.dataclass(frozen=True)
class Scores:
  """Distances with bootstrap standard errors, and class accuracy."""

  features: float
  features_se: float
  pixels: float
  pixels_se: float
  accuracy: float


@dataclasses.dataclass(frozen=True)
class Scorer:
  """The embedded classifier and the moments of the reference images."""

  classifier: Classifier
  features: Moments
  pixels: Moments
  resamples: int

  @classmethod
  def of(
    cls,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    resamples: int,
  ) -> 'Scorer':
    """Trains the classifier on reference images (n, H, W, C) uint8."""
    classifier = train_classifier(images, labels, num_classes)
    features, _ = classifier(images)
    return cls(
      classifier, Moments.of(features), Moments.of(_pixels(images)), resamples
    )

  def __call__(self, images: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores (n, H, W, C) uint8 images that were drawn for `labels`."""
    features, predictions = self.classifier(images)
    pixels = _pixels(images)
    return Scores(
      features=frechet_distance(Moments.of(features), self.features),
      features_se=bootstrap(features, self.features, self.resamples),
      pixels=frechet_distance(Moments.of(pixels), self.pixels),
      pixels_se=bootstrap(pixels, self.pixels, self.resamples),
      accuracy=float((predictions == labels).mean()),
    )


def _pixels(images: np.ndarray) -> np.ndarray:
  """(n, H * W * C) in [-1, 1]."""
  return images.reshape(len(images), -1) / 127.5 - 1
