"""Scores of images against real ones, by the section `eval` of the config."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from dit.config import check_choice
from dit.types import InputError
from guidance import parse
from sample.metrics import measure
from sample.metrics.measure import Estimate, MeasureConfig, Summary
from sample.metrics.reference import Reference, is_statistics, load_reference
from sample.metrics.resize import PRESETS
from train.data.image_sets import ImageSet, open_image_set
from train.data.source import DataConfig, load_all, open_source
from train.extractors import open_extractor

# Of `eval`, what figures depend on.
CONSTANTS = (
  'repeats', 'bootstrap', 'neighbours', 'half', 'split_size', 'kid_subsets',
  'kid_subset_size', 'image_size',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvalConfig(MeasureConfig):
  """What is measured, in which features, and how often while training.

  Attributes:
    extractor: as `extractors.open_extractor` reads it.
    preprocessing: of Inception, one of `resize.PRESETS`.
    reference: statistics or images; '' for the training split.
    image_size: that image files are cut to, as ADM cuts; 0: as they are.
    batch_size: images per call of the extractor, over all devices.
    repeats: disjoint sets of images, for the mean and its standard error.
    every_images: between evaluations of a training run, in images seen; 0:
      none.
    num: images of each of those.
    guidance: of those.
    autoencoder: that decodes latents for those, as NAME:FILE[,FILE].
  """

  extractor: str = 'classifier'
  preprocessing: str = 'adm'
  reference: str = ''
  image_size: int = 0
  batch_size: int = 64
  repeats: int = 1
  every_images: int = 0
  num: int = 1000
  guidance: str = 'none'
  autoencoder: str = ''

  def __post_init__(self) -> None:
    """Checks names and ranges."""
    super().__post_init__()
    check_choice('eval.preprocessing', self.preprocessing, PRESETS)
    for name, least in (
      ('image_size', 0),
      ('batch_size', 1),
      ('repeats', 1),
      ('every_images', 0),
      ('num', 2),
    ):
      if getattr(self, name) < least:
        raise InputError(
          f'eval.{name} is {getattr(self, name)}, expected at least {least}.'
        )
    parse(self.guidance)


class Evaluator:
  """An extractor and a reference; scores sets of images."""

  def __init__(
    self,
    config: EvalConfig,
    data: DataConfig,
    num_classes: int,
    mesh: Mesh,
    *,
    labels: bool,
  ) -> None:
    """Opens both, and takes the features of a reference of images.

    Args:
      config: which.
      data: whose training split serves where the config names no other.
      num_classes: of the data.
      mesh: the devices.
      labels: whether the images to score have labels of the data.

    Raises:
      InputError: for what is missing or does not fit, before any images are
        read.
    """
    self.config, self._mesh = config, mesh
    stored = bool(config.reference) and is_statistics(config.reference)
    images = None if stored else self._real_images(data)
    self.extractor = open_extractor(
      config.extractor, config.preprocessing, data, num_classes
    )
    reference, adm = None, False
    if stored:
      reference = load_reference(config.reference, self.extractor)
      adm = reference.summary.rows.pool is None and reference.has_images
    self.metrics = measure.choose(
      config,
      self.extractor,
      reference_rows=not stored
      or adm
      or reference.summary.rows.pool is not None,
      reference_spatial=not stored or reference.summary.spatial is not None,
      labels=labels,
    )
    if adm and {'kid', 'precision', 'recall'} & {*self.metrics}:
      rows = self.summarise(open_image_set(config.reference, data.dir)).rows
      reference = dataclasses.replace(
        reference, summary=dataclasses.replace(reference.summary, rows=rows)
      )
    self.reference = reference or self.read_reference(images)

  def _real_images(self, data: DataConfig) -> ImageSet:
    if self.config.reference:
      size = self.config.image_size or None
      return open_image_set(self.config.reference, data.dir, image_size=size)
    return training_images(data)

  def read_reference(self, images: ImageSet) -> Reference:
    """The reference that images make, with where it is from."""
    logging.info('Features of the reference, %d images.', images.count)
    digest = hashlib.sha256()
    summary = self.summarise(images, digest=digest)
    about = {
      'images': images.name,
      'count': images.count,
      'image_size': self.config.image_size or None,
      'eight_bit': images.eight_bit,
      'sha256': digest.hexdigest(),
      'extractor': self.extractor.protocol(),
    }
    return Reference(summary, about, images.count)

  def summarise(
    self,
    images: ImageSet | Iterable[np.ndarray],
    labels: np.ndarray | None = None,
    digest: Any = None,
  ) -> Summary:
    """The features of images, (n, H, W, C) at a time."""
    batches = images.batches() if isinstance(images, ImageSet) else images
    if digest is not None:
      batches = _hashed(batches, digest)
    features = self.extractor(batches, self._mesh, self.config.batch_size)
    return measure.summarise(features, self.config, self.metrics, labels)

  def score(
    self, images: np.ndarray, labels: np.ndarray
  ) -> dict[str, Estimate]:
    """Every metric of images (n, H, W, C), in `eval.repeats` equal parts."""
    parts = self.config.repeats
    each = len(images) // parts
    return self(
      [
        self.summarise([images[at : at + each]], labels[at : at + each])
        for at in range(0, parts * each, each)
      ]
    )

  def protocol(self) -> dict[str, Any]:
    """What fixes the figures beside the images, as plain values."""
    config = dataclasses.asdict(self.config)
    return {
      **{key: config[key] for key in CONSTANTS},
      'extractor': self.extractor.protocol(),
      'reference': {
        'place': self.config.reference or self.reference.about['images'],
        'count': self.reference.count,
        **self.reference.about,
      },
    }

  def __call__(self, samples: list[Summary]) -> dict[str, Estimate]:
    """Every metric of disjoint sets of images."""
    return measure.estimate(
      samples, self.reference.summary, self.config, self.metrics
    )


def training_images(data: DataConfig) -> ImageSet:
  """The training split as a set of images."""
  images, labels = load_all(open_source(data, data.train_split))
  return ImageSet(
    f'{data.name}:{data.train_split}',
    len(images),
    labels,
    True,
    lambda start, stop: images[start:stop],
  )


def _hashed(batches: Iterable[np.ndarray], digest: Any) -> Iterator[np.ndarray]:
  """Passes images through, and adds them to a hash."""
  for images in batches:
    digest.update(np.ascontiguousarray(images).data)
    yield images
