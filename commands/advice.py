"""Commands to try next: printed only where they work as they stand."""

import functools
import shlex
from collections.abc import Sequence

from commands.sample_job import SampleJob, SampleRequest
from core import program
from core.errors import InputError
from evaluate.evaluator import plan
from input_pipeline.records import LatentSource, Metadata
from input_pipeline.sources import check_source, open_source
from train.config_file import load_config, override
from train.experiment import Experiment, build


def command(name: str, *words: str) -> str:
  """Returns a command line, quoted for a shell."""
  return shlex.join([*program.command(), name, *words])


class Advice:
  """Commands that can be tried on a run.

  A command is printed if its guidance, weights, data and decoder are there;
  where only the decoder is missing, the sentence says how to give it.
  """

  def __init__(self, request: SampleRequest) -> None:
    """Remembers the run; opens it when first asked."""
    self._request = request

  @functools.cached_property
  def _job(self) -> SampleJob:
    job = SampleJob(self._request)
    job.check_weights()
    data = job.experiment.data
    for split in filter(None, (data.train_split, data.test_split)):
      source = open_source(data, split)
      check_source(source, data, job.experiment.model)
    return job

  def __call__(
    self, name: str, *words: str, guidance: Sequence[str] = ('none',)
  ) -> str:
    """Returns ' Try: COMMAND', or '' if the command would be refused.

    Args:
      name: name of the command.
      *words: flags of the command, beside those that name the run.
      guidance: all guidance that it uses.
    """
    try:
      job = self._job
      job.check(guidance)
    except InputError:
      return ''
    try:
      decodes = job.decoder is not None
    except InputError as error:
      return f' For {name}: {error}'
    experiment = job.experiment
    try:
      plan(
        experiment.eval,
        experiment.data,
        labels=True,
        count=None,
        decodes=decodes,
      )
    except InputError:
      return ''
    given = [f'--workdir={self._request.source.place}']
    if self._request.autoencoder:
      given.append(f'--autoencoder={self._request.autoencoder}')
    return f' Try: {command(name, *given, *words)}'


def training(
  config: str, overrides: Sequence[str], experiment: Experiment, split: str
) -> str:
  """Returns the command that trains on a set that was just prepared.

  Args:
    config: the config file that `prepare` was given.
    overrides: the assignments that it was given.
    experiment: both together.
    split: the split that was prepared.

  Returns:
    A line 'Try: COMMAND'; '' for another split than the one to train on, or
    for a network that does not fit.
  """
  data = experiment.data
  if split != data.train_split:
    return ''
  metadata = LatentSource(data.prepared(split)).metadata
  missing = _needed(metadata, experiment)
  if data.test_split and not (data.prepared(data.test_split)).exists():
    missing['data.test_split'] = ''
  given = [*overrides, *(f'{key}={value}' for key, value in missing.items())]
  try:
    build(override(load_config(config), given).to_dict())
  except InputError:
    return ''
  words = [f'--config.{assignment}' for assignment in given]
  place = f'runs/{data.name}'
  train = command('train', f'--config={config}', f'--workdir={place}', *words)
  return f'\nTry: {train}'


def _needed(metadata: Metadata, experiment: Experiment) -> dict[str, object]:
  """Returns the keys that must be set for records, where they are not."""
  size, _, channels = metadata.layout.latent_shape
  wanted = {
    'data.autoencoder': metadata.protocol['autoencoder']['name'],
    'model.size': size,
    'model.channels': channels,
    'model.num_classes': len(metadata.classes),
  }
  ours = {
    'data.autoencoder': experiment.data.autoencoder,
    'model.size': experiment.model.size,
    'model.channels': experiment.model.channels,
    'model.num_classes': experiment.model.num_classes,
  }
  return {key: value for key, value in wanted.items() if ours[key] != value}
