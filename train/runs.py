"""Opens a run or a folder of weights for sampling.

`Source.open` returns an `Experiment`: network, path and sampling settings.
`Source.restore` then returns a denoiser. Published weights use the sampling
defaults of their family (docs/checkpoints.md). A folder of weights that was
converted from a run uses the sampling settings of that run.
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
from dit.weights.checkpoint_names import checkpoint_step
from dit.weights.finite import check_finite
from dit.weights.restore import DIVERGED, WEIGHTS, restore_weights
from sample.generate import SampleConfig
from sample.saved_network import OF_MACHINE, open_network
from train import posthoc_ema, workdir
from train.config_file import load_config, override
from train.experiment import Experiment, build

# Keys of the network that sampling may change, since no weights depend on them.
_COMPUTE = ('model.dtype',)
# Fields of the network that affect its computation, but not its weights.
_NOT_OF_WEIGHTS = ('dtype', 'param_dtype', 'attention', 'remat', 'scan')


@dataclasses.dataclass(frozen=True)
class Source:
  """A run, or a folder of weights.

  Attributes:
    place: Workdir of the run, or path of the folder.
    is_run: Whether `place` is the workdir of a run.
    weights: Name of the run's weights for `run_weights`; None for the EMA.
    step: Step of the run's checkpoint; None for the newest checkpoint.
  """

  place: str
  is_run: bool
  weights: str | None = None
  step: int | None = None

  def __post_init__(self) -> None:
    """Checks the values; only a run may specify weights or a step."""
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
    """Returns the run or folder at `place`."""
    return cls(place, open_network(place).is_run, step=step)

  @property
  def is_student(self) -> bool:
    """Returns whether the source is a run of the command `distill`."""
    return self.is_run and 'distill' in workdir.load_config(self.place)

  def open(self, overrides: Sequence[str]) -> Experiment:
    """Returns the experiment with overrides, which must not affect weights.

    Raises InputError if the run or folder fixes the value of an overridden key.
    """
    if not self.is_run:
      return _open_folder(self.place, overrides)
    network = open_network(self.place)
    info = dict(network.metadata)
    if not network.is_run:
      raise InputError(
        f'{self.place} is a folder of weights, not the workdir of a run; give '
        'it as --folder to a command that takes one.'
      )
    build(info)
    if isinstance(info.get('sample'), dict):
      # Configs of older runs may lack keys that configs/presets.py sets.
      info['sample'] = dataclasses.asdict(SampleConfig()) | info['sample']
    config = ml_collections.ConfigDict(info).lock()
    return build(_override(config, overrides, 'run').to_dict())

  def latents(self) -> LatentSpace:
    """Returns the latent space of the network; unknown parts are empty."""
    return open_network(self.place).latents

  def check(self) -> None:
    """Raises InputError if the run does not have the requested checkpoint."""
    if self.is_run and not (self.weights or '').startswith('ema:'):
      checkpoint_step(self.place, self.step)

  def load(
    self, experiment: Experiment, mesh: Mesh
  ) -> tuple[Params, dict[str, Any]]:
    """Returns the weights on the mesh, and metadata that describe them."""
    if self.is_run:
      choice = self.weights or 'ema'
      params, step = run_weights(
        self.place, experiment.model, mesh, choice, self.step
      )
      return params, {
        'data': {
          name: getattr(experiment.data, name)
          for name in ('name', 'train_split', 'test_split')
        },
        'weights': choice,
        'step': step,
        'images_seen': step * experiment.train.batch_size,
      }
    config, params, info = weights.load_folder(self.place)
    shardings = backbone.shardings(config, backbone.shapes(config), mesh)
    if isinstance(latents := info.get('latents'), dict):
      # Results do not depend on the decoder's path or the class names.
      names = ('decoder', 'classes')
      subset = {k: v for k, v in latents.items() if k not in names}
      info = {**info, 'latents': subset}
    return jax.device_put(params, shardings), {**info, 'folder': self.place}

  def restore(
    self, experiment: Experiment, mesh: Mesh
  ) -> tuple[Denoiser, dict[str, Any]]:
    """Returns the denoiser on the mesh, and metadata to store with results."""
    params, info = self.load(experiment, mesh)
    protocol = {
      **info,  # comes first, so that a folder's config.json overrides nothing
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
  """Returns weights of a run and the step at which they were saved.

  Raises InputError if the weights are missing or not finite.

  Args:
    place: Workdir of the run.
    config: Configuration of the run's network.
    mesh: Devices that receive the weights.
    which: 'ema', 'raw', or 'ema:WIDTH' for a power-function average.
    step: Step of the checkpoint or snapshot; None for the newest step.
    allow_nonfinite: Whether non-finite values are accepted.
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


def _width_of(spec: str) -> float | None:
  """Returns the WIDTH in 'ema:WIDTH'; None for the names 'ema' and 'raw'."""
  name, _, width = spec.partition(':')
  if not width:
    check_choice('--weights', spec, WEIGHTS)
    return None
  try:
    if name == 'ema':
      return float(width)
  except ValueError:
    pass
  raise InputError(
    f'--weights is {quote(spec)}, expected {", ".join(WEIGHTS)}, or '
    'ema:WIDTH such as ema:0.1.'
  )


def check_start(experiment: Experiment) -> None:
  """Raises InputError if the weights at `train.init_from` do not fit a run."""
  source = Source.at(experiment.train.init_from)
  heads = ('taps', 'tap_head')
  frozen = experiment.train.parameters == 'taps'
  check_same(experiment, source, heads if frozen else ())
  source.check()


def check_unquantized(source: Source) -> None:
  """Raises InputError for quantized weights, which cannot be trained."""
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
  """Raises InputError if a source and an experiment have different networks.

  Args:
    experiment: Experiment whose network and path must equal the source's.
    source: Run or folder to check.
    but: Fields of the network that may differ.
  """
  other = source.open(())
  check_unquantized(source)
  if type(other.model) is not type(experiment.model):
    raise InputError(
      f'{source.place}, the source of the initial weights, holds a '
      f'{backbone.name_of(other.model)}, not a '
      f'{backbone.name_of(experiment.model)}; make the sections model agree.'
    )
  network, fields = (
    {'path': e.objective.path, **dataclasses.asdict(e.model)}
    for e in (experiment, other)
  )
  pairs = [
    f'{key} {fields[key]}, not {network[key]}'
    for key in network
    if network[key] != fields[key]
    and key not in (*_NOT_OF_WEIGHTS, *but)
    and (key != 'min_time' or network['convention'] == 'data')
  ]
  if pairs:
    raise InputError(
      f'{source.place}, the source of the initial weights, holds another '
      f'network: {"; ".join(pairs)}; make the sections model agree.'
    )


def start_weights(experiment: Experiment, mesh: Mesh) -> Params:
  """Returns the weights at `train.init_from`; for a run, these are the EMA.

  Intermediate heads are left out if they differ from those of the experiment.
  """
  source = Source.at(experiment.train.init_from)
  logging.info('Starting with the weights of %s.', source.place)
  opened = source.open(())
  params = source.load(opened, mesh)[0]
  theirs, ours = (
    (model.taps, getattr(model, 'tap_head', None))
    for model in (opened.model, experiment.model)
  )
  if theirs != ours:
    logging.info('Its intermediate heads %s are left out.', theirs[0])
    _, params = backbone.without_taps(opened.model, params)
  return params


def check_task(what: str, theirs: Experiment, ours: Experiment) -> None:
  """Raises InputError if two networks are trained for different tasks.

  `what` is the name of the other network, such as 'the guide'.
  """

  def task(experiment):
    network = experiment.model
    return {
      'latent_shape': network.latent_shape,
      'num_classes': network.num_classes,
      'path': experiment.objective.path,
    }

  expected = task(ours)
  for key, value in task(theirs).items():
    if value != expected[key]:
      raise InputError(
        f'{what} has {key} {value}, the network {expected[key]}; they must be '
        'trained for the same task.'
      )


def _open_folder(folder: str, overrides: Sequence[str]) -> Experiment:
  origin = open_network(folder)
  network, config = origin.config, load_config('configs/base.py')
  config.sample.update(dataclasses.asdict(origin.sampling))
  config.model.dtype = network.dtype
  experiment = build(_override(config, overrides, 'folder').to_dict())
  return dataclasses.replace(
    experiment,
    model=dataclasses.replace(network, dtype=experiment.model.dtype),
    objective=dataclasses.replace(
      experiment.objective,
      path=origin.path,
      label_dropout=experiment.objective.label_dropout * network.null_label,
    ),
  )


def _override(
  config: ml_collections.ConfigDict, overrides: Sequence[str], kind: str
) -> ml_collections.ConfigDict:
  defaults = flatten(config.to_dict())
  for assignment in overrides:
    key = assignment.partition('=')[0]
    if key in defaults and key not in _COMPUTE and not workdir.is_free(key):
      raise InputError(
        f'config key {key} belongs to the {kind} and cannot be changed here; '
        f'{", ".join((*_COMPUTE, *workdir.FREE))} can.'
      )
  return override(config, overrides)


def sampling_of(experiment: Experiment) -> dict[str, Any]:
  """Returns the keys of the section `sample` that affect the images."""
  sampling = dataclasses.asdict(experiment.sample)
  del sampling[OF_MACHINE]
  return sampling
