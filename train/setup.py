"""Checks and opens the parts of a training run before it starts."""

import dataclasses
from typing import Any

from etils import epath
from jax.sharding import Mesh

from core.errors import InputError
from dit import backbone
from dit.autoencoder import Autoencoder
from dit.latents import LatentSpace
from dit.sharding import check_batch, make_mesh
from dit.weights.checkpoint_names import saved_steps
from input_pipeline.sources import check_source, latent_space_of, open_source
from sample.decoder import read_decoder, remembered
from sample.saved_network import load_latents
from train.experiment import Experiment
from train.metrics_log import check_wandb
from train.previews import Previews, Scores
from train.runs import check_start


@dataclasses.dataclass(frozen=True)
class Setup:
  """A checked run with open data and an open decoder.

  Attributes:
    experiment: Settings of the run.
    mesh: Devices.
    records: Training records; None for a student that needs no data.
    latents: Latent space of the records, stored in the run's latents.json.
    previews: Preview grids of the run.
    scores: Scores of the run's samples.
  """

  experiment: Experiment
  mesh: Mesh
  records: Any
  latents: LatentSpace
  previews: Previews
  scores: Scores


def open_setup(
  experiment: Experiment,
  workdir: epath.PathLike | None = None,
  autoencoder: str | None = None,
) -> Setup:
  """Checks, without compiling, that a run can work; opens data and decoder.

  A run with checkpoints in `workdir` needs no initial weights. `autoencoder` is
  the name or path of the decoder; None for the stored decoder. Raises
  InputError if the run cannot work on this machine.
  """
  mesh = make_mesh(experiment.mesh)
  check_settings(experiment, mesh)
  records = open_source(experiment.data, experiment.data.train_split)
  check_source(records, experiment.data, experiment.model)
  if experiment.data.test_split:
    open_source(experiment.data, experiment.data.test_split)
  if experiment.train.init_from and not (workdir and saved_steps(workdir)):
    check_start(experiment)
  latents = latent_space_of(records, experiment.data)
  return make_setup(experiment, mesh, records, latents, workdir, autoencoder)


def make_setup(
  experiment: Experiment,
  mesh: Mesh,
  records: Any,
  latents: LatentSpace,
  workdir: epath.PathLike | None = None,
  autoencoder: str | None = None,
) -> Setup:
  """Opens the decoder of latents, and checks that previews and scores work.

  `records` may be None. `latents` is the latent space of the run's records or
  of its teacher. `workdir` may store a decoder. `open_setup` explains
  `autoencoder`. Raises InputError if a required decoder is missing or does not
  fit.
  """
  if workdir and (path := load_latents(workdir).decoder):
    latents = dataclasses.replace(latents, decoder=path)
  decoder: Autoencoder | None = None
  problem = ''
  samples = experiment.log.preview_every_images or experiment.eval.every_images
  if autoencoder is not None or samples:
    channels = experiment.model.channels
    try:
      decoder = read_decoder(autoencoder, channels, latents, mesh)
    except InputError as error:
      # Training does not need the decoder. Without one, there are no previews.
      if autoencoder is not None or experiment.eval.every_images:
        raise
      problem = str(error)
  if autoencoder is not None:
    location = remembered(autoencoder, decoder)
    latents = dataclasses.replace(latents, decoder=location)
  return Setup(
    experiment,
    mesh,
    records,
    latents,
    Previews(experiment, mesh, decoder, problem),
    Scores(experiment, mesh, decoder, records),
  )


def check_settings(experiment: Experiment, mesh: Mesh) -> None:
  """Raises InputError if the experiment cannot be trained on this mesh."""
  prediction = experiment.objective.prediction
  convention = experiment.model.convention
  for name, place in (
    ('noise', 'configs/dit.py'),
    ('data', 'docs/training.md'),
  ):
    if (prediction == name) != (convention == name):
      raise InputError(
        f'model.convention is {convention}, but objective.prediction is '
        f'{prediction}; only both or neither may be {name} ({place}).'
      )
  if experiment.train.parameters == 'taps':
    shapes = backbone.shapes(experiment.model)
    if not backbone.tap_params(experiment.model, shapes):
      raise InputError(
        'train.parameters=taps: the backbone does not say which of its '
        'parameters are intermediate heads (Backbone.tap_modules).'
      )
  check_wandb(experiment.log.wandb)
  backbone.check_mesh(mesh, experiment.model, zero1=experiment.mesh.zero1)
  check_batch(
    mesh,
    experiment.train.batch_size,
    'train.batch_size',
    experiment.train.accumulate,
  )
