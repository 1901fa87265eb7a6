"""Scores of a set of images against real ones.

Distances are Frechet distances to the reference images, in the features of the
embedded classifier and in pixels; accuracy is how often the classifier reads
the label that an image was drawn for. With so few images as on a laptop a
figure means little without its standard error, so each has one.
"""

import dataclasses

import numpy as np

from evaluate.classifier import Classifier, train_classifier
from evaluate.frechet import Moments, bootstrap, frechet_distance

_LARGE, _SIDE = 32, 16  # sides: the largest kept, and that of reduced images


@dataclasses.dataclass(frozen=True)
class Distance:
  """A Frechet distance, and the same of bootstrap resamples.

  Attributes:
    value: the distance.
    resampled: (resamples,), see `frechet.bootstrap`.
  """

  value: float
  resampled: np.ndarray

  @property
  def error(self) -> float:
    """Standard error of `value`."""
    return float(self.resampled.std(ddof=1))

  def gain(self, other: 'Distance') -> float:
    """By how many standard errors of the difference `other` is nearer.

    The two sets must be paired row by row.
    """
    error = (self.resampled - other.resampled).std(ddof=1)
    return float((self.value - other.value) / error) if error else 0.0


@dataclasses.dataclass(frozen=True)
class Scores:
  """Distances in features and in pixels, and class accuracy."""

  features: Distance
  pixels: Distance
  accuracy: float

  def as_dict(self) -> dict[str, float]:
    """The figures, without the resamples."""
    return {
      'features': self.features.value,
      'features_se': self.features.error,
      'pixels': self.pixels.value,
      'pixels_se': self.pixels.error,
      'accuracy': self.accuracy,
    }


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
    classifier: Classifier | None = None,
  ) -> 'Scorer':
    """Of reference images (n, H, W, C) uint8; trains where none is given."""
    classifier = classifier or train_classifier(images, labels, num_classes)
    features, _ = classifier(images)
    return cls(
      classifier, Moments.of(features), Moments.of(_pixels(images)), resamples
    )

  def __call__(self, images: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores (n, H, W, C) uint8 images that were drawn for `labels`."""
    features, predictions = self.classifier(images)
    pixels = _pixels(images)
    return Scores(
      features=self._distance(features, self.features),
      pixels=self._distance(pixels, self.pixels),
      accuracy=float((predictions == labels).mean()),
    )

  def _distance(self, features: np.ndarray, reference: Moments) -> Distance:
    return Distance(
      frechet_distance(Moments.of(features), reference),
      bootstrap(features, reference, self.resamples),
    )


def _pixels(images: np.ndarray) -> np.ndarray:
  """Returns (n, F) values in [-1, 1].

  Images with a side above 32 are reduced to 16 x 16 means, since the covariance
  of all pixels of 256 x 256 would fill 288 GiB.
  """
  n, height, width, channels = images.shape
  if max(height, width) > _LARGE:
    h, w = (max(side // _SIDE, 1) for side in (height, width))
    rows, columns = height // h, width // w
    squares = images[:, : rows * h, : columns * w]
    squares = squares.reshape(n, rows, h, columns, w, channels)
    images = squares.mean((2, 4), dtype=np.float32)
  return images.reshape(n, -1) / 127.5 - 1
