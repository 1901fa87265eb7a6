"""Makes preview grids and scores of samples during training."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from core.errors import InputError
from dit import backbone
from dit.autoencoder import Autoencoder
from dit.base import Params
from dit.path import path_named
from dit.sharding import check_batch
from evaluate.evaluator import Evaluator, open_evaluator, plan
from evaluate.metrics import LOWER, as_dict
from evaluate.real_images import RealData
from guidance import parse
from guidance.parse import describe
from sample import nonfinite, pictures
from sample.generate import Generated, Sampler, plan_labels
from train.experiment import Experiment

COLUMNS = 10  # columns of a preview grid, one class each


class Samples:
  """A function that samples images with the weights of a run."""

  def __init__(
    self,
    experiment: Experiment,
    mesh: Mesh,
    *,
    guidance: str,
    decoder: Autoencoder | None,
    batch_size: int,
  ) -> None:
    """Raises InputError if sampling cannot work with these settings."""
    self._network, self.seed = experiment.model, experiment.seed
    self._guidance = parse(guidance)
    self._sampler = Sampler(
      backbone.bind(experiment.model, {}),
      dataclasses.replace(experiment.sample, batch_size=batch_size),
      path_named(experiment.objective.path),
      experiment.model.latent_shape,
      mesh,
      decoder,
    )
    self._sampler.check(self._guidance)

  def __call__(
    self,
    params: Params,
    labels: np.ndarray,
    stopping: Callable[[], bool] = lambda: False,
  ) -> Generated | None:
    """Samples one image per label (n,), and warns about non-finite images.

    Sampling stops, and returns None, once `stopping()` is true after a batch.
    """
    denoiser, batches = backbone.bind(self._network, params), []
    sampler = dataclasses.replace(self._sampler, denoiser=denoiser)
    for batch in sampler.batches(self._guidance, labels, self.seed):
      batches.append(batch)
      if stopping():
        return None
    num_bad = sum(int((~batch.finite).sum()) for batch in batches)
    nonfinite.warn(num_bad, len(labels), describe(self._guidance))
    images = np.concatenate([batch.images for batch in batches])
    return Generated(images, batches[0].nfe, num_bad)


class Previews:
  """Grids of samples that show the progress of a run.

  Attributes:
    every: Number of steps between previews; 0 for none.
    missing: Reason why requested previews cannot be made; '' if there is none.
  """

  def __init__(
    self,
    experiment: Experiment,
    mesh: Mesh,
    decoder: Autoencoder | None = None,
    missing: str = '',
  ) -> None:
    """Raises InputError if requested previews cannot be sampled.

    `decoder` is None for a network of images. `missing` is the reason why the
    decoder is missing; '' if it is present.
    """
    self._experiment = experiment
    log = experiment.log
    self.every = experiment.train.steps_of(log.preview_every_images)
    self.missing = missing if self.every else ''
    if self.missing:
      self.every = 0
    if self.every:
      self._samples = Samples(
        experiment,
        mesh,
        guidance=log.preview_guidance,
        decoder=decoder,
        # One batch holds all images; its size is a multiple of mesh.size.
        batch_size=-(-log.preview_num // mesh.size) * mesh.size,
      )

  def draw(self, params: Params) -> np.ndarray:
    """Returns a grid with one class per column, as an (H, W, C) uint8 image."""
    columns = min(self._experiment.model.num_classes, COLUMNS)
    count = self._experiment.log.preview_num
    labels = (np.arange(count) % columns).astype(np.int32)
    sample = self._samples(params, labels)
    assert sample is not None
    side = sample.images.shape[1]
    return pictures.tile(sample.images, columns, scale=max(1, 40 // side))


class Scores:
  """Metrics of samples; every evaluation starts from the same noise.

  Attributes:
    every: Number of steps between evaluations; 0 for none.
    metrics: Names of the metrics; () for none.
  """

  def __init__(
    self,
    experiment: Experiment,
    mesh: Mesh,
    decoder: Autoencoder | None = None,
    records: Any = None,
  ) -> None:
    """Raises InputError if requested scores cannot be computed.

    `Previews` explains `decoder`. `evaluator` opens the extractor and the
    reference, and also the training records if `records` is None.
    """
    self._experiment, self._mesh = experiment, mesh
    self._real = RealData(
      experiment.data, experiment.model.num_classes, decoder, records
    )
    self.metrics: tuple[str, ...] = ()
    config = experiment.eval
    self.every = experiment.train.steps_of(config.every_images)
    key = experiment.checkpoint.best_by
    saves = experiment.train.steps_of(experiment.checkpoint.every_images)
    if key != 'loss' and (not self.every or saves % self.every):
      raise InputError(
        f'checkpoint.best_by is {key}, but eval.every_images does not measure '
        'it at every checkpoint; set it to checkpoint.every_images.'
      )
    if self.every:
      check_batch(mesh, config.batch_size, 'eval.batch_size')
      count = config.num // config.repeats
      self.metrics = plan(
        config,
        experiment.data,
        labels=True,
        count=count,
        decodes=decoder is not None,
      )
      if key not in ('loss', *self.metrics):
        raise InputError(
          f'checkpoint.best_by is {key}, but what is measured is '
          f'{", ".join(self.metrics)}; see eval.metrics and eval.extractor.'
        )
      self._samples = Samples(
        experiment,
        mesh,
        guidance=config.guidance,
        decoder=decoder,
        batch_size=experiment.sample.batch_size,
      )

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """The extractor with its reference; opening them may take minutes."""
    config = self._experiment.eval
    return open_evaluator(
      config,
      self._real,
      self._mesh,
      labels=True,
      count=config.num // config.repeats,
    )

  def open(self) -> None:
    """Opens the evaluator if scores are requested."""
    if self.every:
      _ = self.evaluator

  def measure(
    self,
    params: Params,
    stopping: Callable[[], bool] = lambda: False,
  ) -> dict[str, float]:
    """Returns every metric as eval/METRIC; {} if `stopping` returns true.

    eval/nonfinite is the number of non-finite images. Too many non-finite
    images prevent all other metrics.
    """
    classes = self._experiment.model.num_classes
    labels = plan_labels('balanced', self._experiment.eval.num, classes, 0)
    sample = self._samples(params, labels, stopping)
    if sample is None:
      return {}
    scores: dict[str, float] = {}
    if sample.nonfinite:
      scores['nonfinite'] = sample.nonfinite
    if nonfinite.too_many(sample.nonfinite, len(labels)):
      logging.warning('No metrics are computed for these images.')
    else:
      scores |= as_dict(self.evaluator.score(sample.images, labels))
    return {f'eval/{name}': value for name, value in scores.items()}

  def rank(self, values: dict[str, float], loss: float) -> float:
    """Returns the sort key of a checkpoint; the best one has the lowest key.

    Args:
      values: Scores of this step, from which `checkpoint.best_by` selects one.
      loss: Mean loss since the last checkpoint, used if `best_by` is 'loss'.
    """
    metric = self._experiment.checkpoint.best_by
    if metric == 'loss':
      return loss
    sign = 1 if metric in LOWER else -1
    return sign * values.get(f'eval/{metric}', sign * math.inf)
