"""Checks the inputs of an evaluation before any training or sampling."""

import pathlib
from collections.abc import Collection
from typing import Any

from absl import logging

from core.errors import InputError
from core.files import read_json
from evaluate import classifier
from evaluate.extractor_registry import classes_of
from evaluate.frechet import least_rows
from evaluate.image_sets import ImageSet
from evaluate.real_images import RealData
from evaluate.reference import Reference
from input_pipeline.labels import check_classes
from input_pipeline.sources import record_shape
from sample import nonfinite


def protocol_beside(samples: str) -> dict[str, Any]:
  """Returns the protocol that `sample` wrote to samples.json; {} if absent."""
  path = pathlib.Path(samples).expanduser()
  record = (path if path.is_dir() else path.parent) / 'samples.json'
  if not record.is_file() or (path.is_file() and path.name != 'samples.npz'):
    return {}
  try:
    protocol = read_json(record)
    return {key: protocol[key] for key in protocol if key != 'samples'}
  except (InputError, TypeError):
    logging.warning('%s is damaged and not part of the protocol.', record)
    return {}


def check_samples(
  images: ImageSet,
  protocol: dict[str, Any],
  extractor: str,
  metrics: Collection[str],
  num_classes: int,
) -> None:
  """Raises InputError for images whose metrics would be meaningless.

  `protocol` has the entries of the samples.json that describes the images. An
  empty `metrics` means all possible metrics. Before a classifier is trained,
  all images are read once, which raises InputError for a broken image.
  """
  num_bad = protocol.get('nonfinite', 0)
  if type(num_bad) is not int:
    num_bad = protocol['nonfinite'] = 0
  if nonfinite.too_many(num_bad, images.count):
    raise InputError(
      f'{images.name}: {nonfinite.describe(num_bad, images.count)}, by its '
      f'samples.json; above {nonfinite.MOST:.0%} metrics are meaningless: '
      'sample again with other weights or guidance.'
    )
  if images.labels is not None and (not metrics or 'accuracy' in metrics):
    classes = classes_of(extractor, num_classes)
    if classes is not None:
      check_classes(images.name, images.labels, classes)
  if extractor == 'classifier':
    for _ in images.batches():
      pass


def check_classifier(
  metrics: Collection[str],
  real: RealData,
  *,
  shape: tuple[int, ...] | None,
  images: ImageSet | None,
  reference: Reference | None,
  count: int | None,
) -> None:
  """Checks that a classifier trained on the training split can score images.

  Raises InputError if the inputs do not fit, or a reference image is broken.

  Args:
    metrics: Metrics to compute.
    real: Training split, whose records are images.
    shape: Shape (H, W, C) of the images to score; None if unknown.
    images: Reference images; None if the reference consists of statistics.
    reference: Reference statistics; None if the reference consists of images.
    count: Number of images per set; None if there are no images to score.
  """
  trained_on, name = record_shape(real.source), real.config.name
  width = classifier.features_of(trained_on)
  check_count(metrics, width, count)
  if reference is not None:
    check_width('the reference', reference, width, f'the {name} classifier')
  shapes = {'images to score': shape} if shape else {}
  if images is not None:
    for batch in images.batches():
      shapes[images.name] = batch.shape[1:]
  for source, size in shapes.items():
    if size[:2] != trained_on[:2]:
      raise InputError(
        f'{source}: {size[0]} x {size[1]} pixels, but a classifier would be '
        f'trained on {name}, {trained_on[0]} x {trained_on[1]}; give '
        'images of this size, or another --extractor.'
      )


def check_width(
  place: str, reference: Reference, width: int, extractor: str
) -> None:
  """Raises InputError if the statistics do not describe `width` features."""
  features = len(reference.summary.pool.mean)
  if features != width:
    raise InputError(
      f'{place} has {features} features, but {extractor} gives {width}; choose '
      'a reference and an extractor that match.'
    )


def check_count(
  metrics: Collection[str], width: int, count: int | None
) -> None:
  """Raises InputError if a set has too few images for fd_inf."""
  minimum = least_rows(width)
  if 'fd_inf' in metrics and count is not None and count < minimum:
    raise InputError(
      f'{count} images in each set are too few for fd_inf in {width} features, '
      f'expected at least {minimum}; sample more, or remove it from --metrics.'
    )
