"""Scores images against real images, as the config section `eval` specifies."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh

from core.errors import InputError
from core.progress import image_progress
from core.ranges import BatchSize, Choice, Images, PathText, Range, WebText
from dit.autoencoder import Autoencoder
from dit.sharding import check_batch
from evaluate import metrics as measure
from evaluate.extractor import Extractor
from evaluate.extractor_registry import kind_of, open_extractor
from evaluate.image_sets import ImageSet, open_image_set
from evaluate.inputs import check_classifier, check_count, check_width
from evaluate.metrics import Estimate, MeasureConfig, Summary
from evaluate.real_images import RealData, decoder_of, load_images
from evaluate.reference import (
  Reference,
  arrays_of,
  check_extractor,
  is_statistics,
  load_reference,
)
from evaluate.resize import PRESETS
from guidance import parse
from input_pipeline.sources import DataConfig

# Metrics that need the features of individual reference images.
_OF_ROWS = {'kid', 'precision', 'recall'}
# Keys of the config section `eval` that affect the scores.
CONSTANTS = (
  'repeats', 'bootstrap', 'neighbors', 'float16_distances', 'split_size',
  'kid_subsets', 'kid_subset_size', 'image_size', 'reference_rows',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvalConfig(MeasureConfig):
  """Settings of an evaluation; configs/base.py explains each field."""

  extractor: WebText = 'classifier'
  preprocessing: Annotated[str, Choice(PRESETS)] = 'adm'
  reference: PathText = ''
  image_size: Annotated[int, Range(0, 16_384)] = 0
  batch_size: BatchSize = 64
  repeats: Annotated[int, Range(1, 10**6)] = 1
  reference_rows: Annotated[int, Range(0, 10**8)] = 10_000
  every_images: Images = 0
  num: Annotated[int, Range(2, 10**8)] = 1000
  guidance: str = 'none'

  def __post_init__(self) -> None:
    super().__post_init__()
    parse(self.guidance)
    if self.num < 2 * self.repeats:
      raise InputError(
        f'eval.num is {self.num}, too few for eval.repeats={self.repeats} sets.'
      )


def needs_records(config: EvalConfig) -> bool:
  """Returns whether an evaluation reads the training split."""
  return config.extractor == 'classifier' or not config.reference


def plan(
  config: EvalConfig,
  data: DataConfig,
  *,
  labels: bool,
  count: int | None,
  decodes: bool = False,
) -> tuple[str, ...]:
  """Returns the metrics to compute; reads neither the extractor nor images.

  Raises InputError if the settings contradict each other.

  Args:
    config: Section `eval`.
    data: Dataset whose training split is the default reference.
    labels: Whether the images to score have labels of the dataset.
    count: Number of images per set; None if there are no images to score.
    decodes: Whether a decoder for latents is available.
  """
  kind = kind_of(config.extractor)
  if needs_records(config) and data.autoencoder != 'pixels' and not decodes:
    raise InputError(
      f'the records of {data.name} are latents, and images are needed: give '
      f'their decoder, --autoencoder={data.autoencoder}:FILE[,FILE], or '
      'set eval.reference and eval.extractor (--reference, --extractor).'
    )
  names = arrays_of(config.reference) if config.reference else set()
  has_moments = 'mu' in names
  metrics = measure.choose(
    config,
    kind,
    reference_rows=not has_moments or bool(names & {'pool', 'arr_0'}),
    reference_spatial=not has_moments or {'mu_s', 'sigma_s'} <= names,
    labels=labels,
  )
  minimum = config.neighbors + 1 if {'precision', 'recall'} & {*metrics} else 2
  if count is not None and count < minimum:
    raise InputError(
      f'{count} images are too few for {", ".join(metrics)}; expected at least '
      f'{minimum} in each of eval.repeats={config.repeats} sets.'
    )
  return metrics


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Scores sets of images with one extractor against one reference."""

  config: EvalConfig
  metrics: tuple[str, ...]
  extractor: Extractor
  reference: Reference
  mesh: Mesh

  def summarize(
    self,
    batches: Iterable[np.ndarray],
    labels: np.ndarray | None = None,
    parts: np.ndarray | None = None,
  ) -> list[Summary]:
    """Computes the features of N images; returns one summary per set of images.

    Batches have shape (n, H, W, C). `labels` (N,) are the requested labels.
    `parts` (N,) are the images' set indices; None means a single set.
    """
    count = 1 if parts is None else parts.max() + 1
    gatherers = [
      measure.Gatherer(self.config, self.metrics) for _ in range(count)
    ]
    start = 0
    for batch in self.extractor(batches, self.mesh, self.config.batch_size):
      window = slice(start, start + len(batch.pool))
      for part, gatherer in enumerate(gatherers):
        if parts is None:
          gatherer.add(batch)
        elif (mask := parts[window] == part).any():
          gatherer.add(jax.tree.map(lambda rows, m=mask: rows[m], batch))
      start = window.stop
    return [
      gatherer.summary(
        labels if labels is None or parts is None else labels[parts == part]
      )
      for part, gatherer in enumerate(gatherers)
    ]

  def score(
    self, images: np.ndarray, labels: np.ndarray
  ) -> dict[str, Estimate]:
    """Scores images (n, H, W, C), split into `eval.repeats` equal sets."""
    repeats = self.config.repeats
    parts = divide(len(images), len(images) // repeats, repeats)
    mask = parts >= 0
    return self(self.summarize([images[mask]], labels[mask], parts[mask]))

  def protocol(self) -> dict[str, Any]:
    """Returns all settings that the scores depend on, as JSON values."""
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

  def __call__(self, samples: Sequence[Summary]) -> dict[str, Estimate]:
    """Returns the metrics of disjoint sets of images, with standard errors."""
    return measure.estimate(
      samples, self.reference.summary, self.config, self.metrics
    )


def open_evaluator(
  config: EvalConfig,
  real: RealData,
  mesh: Mesh,
  *,
  labels: bool,
  count: int | None,
  shape: tuple[int, int, int] | None = None,
) -> Evaluator:
  """Opens extractor and reference, and computes features of reference images.

  The training split `real` is the default reference. `shape` is the shape
  (H, W, C) of the images to score, or None if unknown. `plan` explains the
  other arguments. Raises InputError if an input is missing or does not fit.
  """
  check_batch(mesh, config.batch_size, 'eval.batch_size')
  data, decodes = real.config, real.decoder is not None
  metrics = plan(config, data, labels=labels, count=count, decodes=decodes)
  reference, images = None, None
  if config.reference and is_statistics(config.reference):
    with_rows = bool(_OF_ROWS & {*metrics})
    reference = load_reference(config.reference, rows=with_rows)
  elif config.reference:
    images = open_image_set(
      config.reference, data.dir, image_size=config.image_size or None
    )
  elif config.image_size:
    raise InputError(
      'eval.image_size crops image files, not the training split; leave it out.'
    )
  else:
    images = real.images(mesh, config.batch_size)
  # Invalid inputs must be reported before a classifier is trained.
  if config.extractor == 'classifier' and data.autoencoder == 'pixels':
    check_classifier(
      metrics, real, shape=shape, reference=reference, count=count,
      images=images if config.reference else None,
    )  # fmt: skip
  extractor = open_extractor(
    config.extractor,
    config.preprocessing,
    real,
    lambda: load_images(real.source, real.decoder, mesh, config.batch_size),
  )
  if reference is not None:
    check_extractor(config.reference, reference, extractor)
    width = extractor.width(shape or (64, 64, 3))
    check_width(config.reference, reference, width, extractor.name)
    check_count(metrics, width, count)
    has_rows = reference.summary.rows.pool is not None
    if _OF_ROWS & {*metrics} and not has_rows and reference.has_images:
      # ADM's files contain images in addition to statistics.
      images = open_image_set(config.reference, data.dir)
  elif shape is not None:  # `width` raises InputError for an invalid shape
    check_count(metrics, extractor.width(shape), count)
  if images is not None:
    result = read_reference(
      images, extractor, config, metrics, mesh,
      reconstructed=decodes and not config.reference,
    )  # fmt: skip
    if reference is not None:
      rows = result.summary.rows
      result = dataclasses.replace(
        reference, summary=dataclasses.replace(reference.summary, rows=rows)
      )
    reference = result
  assert reference is not None
  return Evaluator(config, metrics, extractor, reference, mesh)


def read_reference(
  images: ImageSet,
  extractor: Extractor,
  config: EvalConfig,
  metrics: Sequence[str],
  mesh: Mesh,
  *,
  reconstructed: bool = False,
) -> Reference:
  """Computes a reference for `metrics`, with a description of its images.

  `config` specifies the number of images whose features are kept.
  `reconstructed` means that the images were decoded from latents.
  """
  digest = hashlib.sha256()
  rows = min(config.reference_rows or images.count, images.count)
  mask = np.zeros(images.count, bool)
  mask[np.random.default_rng(0).permutation(images.count)[:rows]] = True
  # The metric fd_inf needs only the moments of the reference.
  gatherer = measure.Gatherer(
    dataclasses.replace(config, bootstrap=0),
    [name for name in metrics if name != 'fd_inf'],
  )
  start = 0
  batches = _hash(images.batches(), digest)
  title = f'reference, {extractor.name}'
  with image_progress(images.count, 0, title) as progress:
    for batch in extractor(batches, mesh, config.batch_size):
      gatherer.add(batch, mask[start : start + len(batch.pool)])
      start += len(batch.pool)
      progress(start)
  metadata = {
    'images': images.name,
    'count': images.count,
    'image_size': config.image_size or None,
    'eight_bit': images.eight_bit,
    **({'reconstructions': True} if reconstructed else {}),
    'sha256': digest.hexdigest(),
    'extractor': extractor.protocol(),
    'identity': extractor.identity(),
  }
  return Reference(gatherer.summary(), metadata, images.count)


def divide(count: int, each: int, repeats: int) -> np.ndarray:
  """Assigns images at random to sets; returns the set index of each image.

  There are `repeats` sets of `each` images. The indices are (count,) int, and
  -1 means no set. Images are often sorted by class, so sets must be random.
  """
  if each * repeats == count and repeats == 1:
    return np.zeros(count, int)
  parts = np.full(count, -1)
  order = np.random.default_rng(0).permutation(count)[: each * repeats]
  parts[order] = np.arange(each * repeats) % repeats
  return parts


def records_decoder(
  config: EvalConfig, data: DataConfig, autoencoder: str | None, mesh: Mesh
) -> Autoencoder | None:
  """Returns the decoder of the training split; None if the split is not read.

  `autoencoder` is the value of the flag --autoencoder. Raises InputError if
  the flag is given but has no use.
  """
  if needs_records(config):
    return decoder_of(data, autoencoder, mesh)
  if autoencoder is not None:
    raise InputError(
      '--autoencoder decodes the training split, which is not read here; '
      'leave it out.'
    )
  return None


def _hash(batches: Iterable[np.ndarray], digest: Any) -> Iterator[np.ndarray]:
  """Yields batches unchanged, and adds their bytes to a hash."""
  for images in batches:
    digest.update(np.ascontiguousarray(images).data)
    yield images
