"""Suggests next commands, which users can run exactly as printed."""

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
  """Suggests a command if the run has the required weights, data and decoder.

  If only the decoder is missing, the text explains how to specify a decoder.
  """

  def __init__(self, request: SampleRequest) -> None:
    """Stores the request; the run is opened for the first suggestion."""
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
    """Returns ' Try: COMMAND', or '' if the command would fail.

    `words` are flags of the command, except flags that name the run. `guidance`
    lists the guidance texts that the command would use.
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
    flags = [f'--workdir={self._request.source.place}']
    if self._request.autoencoder:
      flags.append(f'--autoencoder={self._request.autoencoder}')
    return f' Try: {command(name, *flags, *words)}'


def training(
  config: str, overrides: Sequence[str], experiment: Experiment, split: str
) -> str:
  """Returns a line 'Try: COMMAND' to train on newly prepared records.

  The line is empty if the prepared `split` is not the training split, or if the
  config's network cannot fit the records. `prepare` used the file `config` with
  the assignments `overrides`; `experiment` has the resulting settings.
  """
  data = experiment.data
  if split != data.train_split:
    return ''
  metadata = LatentSource(data.prepared(split)).metadata
  changes = _changes(metadata, experiment)
  if data.test_split and not (data.prepared(data.test_split)).exists():
    changes['data.test_split'] = ''
  values = [*overrides, *(f'{key}={value}' for key, value in changes.items())]
  try:
    build(override(load_config(config), values).to_dict())
  except InputError:
    return ''
  words = [f'--config.{assignment}' for assignment in values]
  path = f'runs/{data.name}'
  train = command('train', f'--config={config}', f'--workdir={path}', *words)
  return f'\nTry: {train}'


def _changes(metadata: Metadata, experiment: Experiment) -> dict[str, object]:
  """Returns config keys that contradict the records, with corrected values."""
  size, _, channels = metadata.layout.latent_shape
  expected = {
    'data.autoencoder': metadata.protocol['autoencoder']['name'],
    'model.size': size,
    'model.channels': channels,
    'model.num_classes': len(metadata.classes),
  }
  values = {
    'data.autoencoder': experiment.data.autoencoder,
    'model.size': experiment.model.size,
    'model.channels': experiment.model.channels,
    'model.num_classes': experiment.model.num_classes,
  }
  return {key: value for key, value in expected.items() if values[key] != value}
