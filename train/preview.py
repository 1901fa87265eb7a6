"""Grids of samples that show how far a run has come."""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dit import model
from dit.path import path_named
from guidance import parse
from sample import generate, writer
from train.experiment import Experiment
from train.trained import read_decoder


class Preview:
  """What draws the previews of a run, checked before it starts."""

  def __init__(
    self, experiment: Experiment, latents: dict[str, Any], mesh: Mesh
  ) -> None:
    """Reads the decoder.

    Args:
      experiment: every setting.
      latents: what the network is trained on; see `trained.read_decoder`.
      mesh: the devices.

    Raises:
      InputError: if previews are asked for and cannot be drawn.
    """
    self._experiment, self._mesh = experiment, mesh
    log, config = experiment.log, experiment.model
    self.every = experiment.train.steps_of(log.preview_every_images)
    if not log.preview_autoencoder and config.channels not in (1, 3):
      self.every = 0  # nothing makes images of these latents
    if not self.every:
      return
    # One batch, filled up to what the devices divide.
    batch_size = -(-log.preview_num // mesh.size) * mesh.size
    self._sampling = dataclasses.replace(
      experiment.sample, batch_size=batch_size
    )
    self._path = path_named(experiment.objective.path)
    self._guidance = parse(log.preview_guidance)
    self._decoder = read_decoder(
      log.preview_autoencoder or None, experiment, latents, mesh
    )
    generate.check(
      self._sampling,
      self._guidance,
      model.bind(config, {}),
      mesh,
      self._path,
      config.latent_shape,
    )

  def __call__(self, params: model.Params) -> np.ndarray:
    """Samples, classes in columns, as one (H, W, C) uint8 image."""
    config, count = self._experiment.model, self._experiment.log.preview_num
    columns = min(config.num_classes, 10)
    seed = self._experiment.seed
    labels = generate.plan_labels('balanced', count, columns, seed)
    images, _ = generate.generate(
      model.bind(config, params),
      self._guidance,
      labels,
      self._sampling,
      path=self._path,
      shape=config.latent_shape,
      mesh=self._mesh,
      seed=seed,
      autoencoder=self._decoder,
    )
    side = images.shape[1]
    return writer.tile(images, columns, scale=max(1, 40 // side))
