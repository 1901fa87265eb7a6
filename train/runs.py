"""What samples are drawn from: a run, or a folder of weights.

Both become an `Experiment`, of which sampling reads the network, its path and
the section `sample`, and, after all checks, a denoiser. A folder that came from
a published file is sampled as its family was by default (docs/checkpoints.md),
one that came from a run as the run is.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import ml_collections
from absl import logging
from jax.sharding import Mesh

from core.errors import InputError, check_choice, quote
from core.nested import flatten
from core.ranges import Range, WebText, check_value
from dit import backbone, model
from dit.base import NetworkConfig, Params
from dit.latents import LatentSpace
from dit.types import Denoiser
from dit.weights import folder as weights
from dit.weights.finite import check_finite
from dit.weights.restore import (
  DIVERGED,
  WEIGHTS,
  checkpoint_step,
  restore_weights,
)
from sample.generate import SampleConfig
from sample.saved_network import OF_MACHINE, open_network
from train import posthoc_ema, workdir
from train.config_file import load_config, override
from train.experiment import Experiment, build

# Keys of the network that change no weights, so that sampling may set them.
_COMPUTE = ('model.dtype',)
# Fields of the network: how it computes, not what its weights are.
_NOT_OF_WEIGHTS = ('dtype', 'param_dtype', 'attention', 'remat', 'scan')


@dataclasses.dataclass(frozen=True)
class Source:
  """A run, or a folder of weights.

  Attributes:
    place: the run's workdir, or the folder.
    is_run: which of the two.
    weights: of a run, as `run_weights` takes it; None for EMA. A folder holds
      one set.
    step: of a run's checkpoint; None for the newest.
  """

  place: str
  is_run: bool
  weights: str | None = None
  step: int | None = None

  def __post_init__(self) -> None:
    """Checks the name, and that a folder is not asked for what runs have."""
    check_value('path', os.fspath(self.place), WebText)
    if self.step is not None:
      check_value('--step', self.step, Annotated[int, Range(0, 2**31 - 1)])
    if self.weights:
      _width_of(self.weights)
    if not self.is_run and (self.weights or self.step is not None):
      raise InputError(
        f'{self.place} is a folder of weights, which holds one set; --weights '
        'and steps are for runs.'
      )

  @classmethod
  def at(cls, place: str, step: int | None = None) -> 'Source':
    """Whichever is there."""
    return cls(place, open_network(place).is_run, step=step)

  @property
  def is_student(self) -> bool:
    """Returns whether it is a run of `distill`."""
    return self.is_run and 'distill' in workdir.load_config(self.place)

  def open(self, overrides: Sequence[str]) -> Experiment:
    """The experiment, with assignments to keys that change no weights.

    Of a folder: its network, and the sampler of its run or its family.

    Raises:
      InputError: for keys that belong to the run or folder.
    """
    if not self.is_run:
      return _open_folder(self.place, overrides)
    network = open_network(self.place)
    about = dict(network.metadata)
    if not network.is_run:
      raise InputError(
        f'{self.place} is a folder of weights, not the workdir of a run; give '
        'it as --folder to a command that takes one.'
      )
    build(about)
    if isinstance(about.get('sample'), dict):
      # Runs of older versions lack newer keys, which presets set too.
      about['sample'] = dataclasses.asdict(SampleConfig()) | about['sample']
    config = ml_collections.ConfigDict(about).lock()
    return build(_override(config, overrides, 'run').to_dict())

  def latents(self) -> LatentSpace:
    """Returns the space that the network was trained in, as far as known."""
    return open_network(self.place).latents

  def check(self) -> None:
    """Raises InputError if a run has no such checkpoint."""
    if self.is_run and not (self.weights or '').startswith('ema:'):
      checkpoint_step(self.place, self.step)

  def load(
    self, experiment: Experiment, mesh: Mesh
  ) -> tuple[Params, dict[str, Any]]:
    """The weights, placed on the mesh, and what is known of them."""
    if self.is_run:
      which = self.weights or 'ema'
      params, step = run_weights(
        self.place, experiment.model, mesh, which, self.step
      )
      return params, {
        'data': {
          name: getattr(experiment.data, name)
          for name in ('name', 'train_split', 'test_split')
        },
        'weights': which,
        'step': step,
        'images_seen': step * experiment.train.batch_size,
      }
    config, params, info = weights.load_folder(self.place)
    shardings = backbone.shardings(config, backbone.shapes(config), mesh)
    if isinstance(latents := info.get('latents'), dict):
      # Results depend neither on the place of the decoder nor on names of
      # classes.
      left_out = ('decoder', 'classes')
      kept = {k: v for k, v in latents.items() if k not in left_out}
      info = {**info, 'latents': kept}
    return jax.device_put(params, shardings), {**info, 'folder': self.place}

  def restore(
    self, experiment: Experiment, mesh: Mesh
  ) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser, placed on the mesh, and what results say of it."""
    params, about = self.load(experiment, mesh)
    protocol = {
      **about,  # first: a folder's is what someone wrote into its config.json
      'model': dataclasses.asdict(experiment.model),
      'path': experiment.objective.path,
      'weights_sha256': model.fingerprint(params),
    }
    return backbone.bind(experiment.model, params), protocol


def run_weights(
  place: str,
  config: NetworkConfig,
  mesh: Mesh,
  which: str,
  step: int | None = None,
  *,
  allow_nonfinite: bool = False,
) -> tuple[Params, int]:
  """Reads one set of a run's weights.

  Args:
    place: Workdir of the run.
    config: Configuration of its network.
    mesh: Devices to put them on.
    which: 'ema', 'raw', or 'ema:WIDTH', a power-function average.
    step: Step of the checkpoint or snapshot; None for the newest.
    allow_nonfinite: Whether values that are not finite are taken as they are.

  Returns:
    The weights, and their step.

  Raises:
    InputError: if the weights are missing or not finite.
  """
  if (width := _width_of(which)) is None:
    return restore_weights(
      place, config, mesh, which, step, allow_nonfinite=allow_nonfinite
    )
  params, step = posthoc_ema.reconstruct(place, config, mesh, width, step)
  check_finite(
    f'{which} weights of {place}, step {step}',
    params,
    advice=DIVERGED,
    allow=allow_nonfinite,
  )
  return params, step


def _width_of(which: str) -> float | None:
  """WIDTH of 'ema:WIDTH'; None for other names that are known."""
  name, _, width = which.partition(':')
  if not width:
    check_choice('--weights', which, WEIGHTS)
    return None
  try:
    if name == 'ema':
      return float(width)
  except ValueError:
    pass
  raise InputError(
    f'--weights is {quote(which)}, expected {", ".join(WEIGHTS)}, or '
    'ema:WIDTH such as ema:0.1.'
  )


def check_start(experiment: Experiment) -> None:
  """Raises InputError unless `train.init_from` holds weights of the network."""
  source = Source.at(experiment.train.init_from)
  check_same(experiment, source)
  source.check()


def check_unquantized(source: Source) -> None:
  """Raises InputError for quantized weights: training needs all of them."""
  scheme = None
  if not source.is_run:
    scheme = weights.scheme_of(weights.load_config(source.place)[1])
  if scheme is not None:
    raise InputError(
      f'{source.place} holds {scheme} weights, and training needs unquantized '
      'ones; give the run or folder that they were made of.'
    )


def check_same(
  experiment: Experiment, source: Source, but: Sequence[str] = ()
) -> None:
  """Raises InputError unless a source holds the network of an experiment.

  Args:
    experiment: the network and its path.
    source: a run or folder.
    but: fields of the network that may differ.
  """
  theirs = source.open(())
  check_unquantized(source)
  if type(theirs.model) is not type(experiment.model):
    raise InputError(
      f'{source.place}, whose weights are to be started with, holds a '
      f'{backbone.name_of(theirs.model)}, not a '
      f'{backbone.name_of(experiment.model)}; make the sections model agree.'
    )
  ours, found = (
    {'path': e.objective.path, **dataclasses.asdict(e.model)}
    for e in (experiment, theirs)
  )
  wrong = [
    f'{key} {found[key]}, not {ours[key]}'
    for key in ours
    if ours[key] != found[key] and key not in (*_NOT_OF_WEIGHTS, *but)
  ]
  if wrong:
    raise InputError(
      f'{source.place}, whose weights are to be started with, holds another '
      f'network: {"; ".join(wrong)}; make the sections model agree.'
    )


def start_weights(experiment: Experiment, mesh: Mesh) -> Params:
  """The weights that `train.init_from` names; of a run the average."""
  source = Source.at(experiment.train.init_from)
  logging.info('Starting with the weights of %s.', source.place)
  return source.load(source.open(()), mesh)[0]


def check_task(what: str, theirs: Experiment, ours: Experiment) -> None:
  """Raises InputError where another network is not for the task of ours.

  Args:
    what: Name of the other network, such as 'the guide'.
    theirs: Its experiment.
    ours: Experiment of the network beside which it works.
  """

  def task(experiment):
    network = experiment.model
    return {
      'latent_shape': network.latent_shape,
      'num_classes': network.num_classes,
      'path': experiment.objective.path,
    }

  known = task(ours)
  for key, value in task(theirs).items():
    if value != known[key]:
      raise InputError(
        f'{what} has {key} {value}, the network {known[key]}; they must be '
        'trained for the same task.'
      )


def _open_folder(folder: str, overrides: Sequence[str]) -> Experiment:
  saved = open_network(folder)
  network, config = saved.config, load_config('configs/base.py')
  config.sample.update(dataclasses.asdict(saved.sampling))
  config.model.dtype = network.dtype
  experiment = build(_override(config, overrides, 'folder').to_dict())
  return dataclasses.replace(
    experiment,
    model=dataclasses.replace(network, dtype=experiment.model.dtype),
    objective=dataclasses.replace(
      experiment.objective,
      path=saved.path,
      label_dropout=experiment.objective.label_dropout * network.null_label,
    ),
  )


def _override(
  config: ml_collections.ConfigDict, overrides: Sequence[str], what: str
) -> ml_collections.ConfigDict:
  known = flatten(config.to_dict())
  for assignment in overrides:
    key = assignment.partition('=')[0]
    if key in known and key not in _COMPUTE and not workdir.is_free(key):
      raise InputError(
        f'config key {key} belongs to the {what} and cannot be changed here; '
        f'{", ".join((*_COMPUTE, *workdir.FREE))} can.'
      )
  return override(config, overrides)


def sampling_of(experiment: Experiment) -> dict[str, Any]:
  """The section `sample` without what changes no image, for a folder's info."""
  sampling = dataclasses.asdict(experiment.sample)
  del sampling[OF_MACHINE]
  return sampling
