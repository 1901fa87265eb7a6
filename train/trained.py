"""What samples are drawn from: a run, or a folder of weights.

Both become an `Experiment`, of which sampling reads the network, its path and
the section `sample`, and, after all checks, a denoiser. A folder that came from
a published file is sampled as its family was by default (docs/checkpoints.md),
one that came from a run as the run is.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from absl import logging
from jax.sharding import Mesh

from dit import autoencoder, model, weights
from dit.autoencoder import Autoencoder
from dit.config import DiTConfig, check_choice, nearest
from dit.latents import Normalisation
from dit.published import read_tensors
from dit.sharding import replicated, tree_shardings
from dit.types import Denoiser, InputError
from train import checkpoint, snapshots, workdir
from train.experiment import Experiment, build
from train.settings import load_config, override

# What differs from configs/base.py, whose defaults are those of ig_sit.
_LIGHTNING = {'last': 0.0, 'shift': 1 / 0.3, 'scales_at': 'evaluation'}
SAMPLING = {
  'dit': {'solver': 'ddpm', 'respacing': '250'},
  'sit': {'solver': 'euler_maruyama:diffusion=sigma'},
  'lightningdit': {'solver': 'euler', 'steps': 249, **_LIGHTNING},
  'ig_lightningdit': {'solver': 'heun:last=heun', 'steps': 124, **_LIGHTNING},
}

OF_MACHINE = 'batch_size'  # of the section `sample`: it changes no image
_MOST = 100_000  # of a number in the section `sample` of a folder

# Of the network: how it computes, not what its weights are.
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
    return cls(place, 'format' not in workdir.load_config(place), step=step)

  def open(self, overrides: Sequence[str]) -> Experiment:
    """The experiment, with assignments to keys that change no weights.

    Of a folder: its network, and the sampler of its run or its family.

    Raises:
      InputError: for keys that belong to the run or folder.
    """
    if not self.is_run:
      return _open_folder(self.place, overrides)
    config = ml_collections.ConfigDict(workdir.load_config(self.place)).lock()
    return build(_override(config, overrides, 'run').to_dict())

  def latents(self) -> dict[str, Any]:
    """Autoencoder and normalisation of its latents; {} where nothing says."""
    if self.is_run:
      return workdir.load_about(self.place, workdir.LATENTS)
    return weights.load_config(self.place)[1].get('latents', {})

  def check(self) -> None:
    """Raises InputError if a run has no such checkpoint."""
    if self.is_run and not (self.weights or '').startswith('ema:'):
      checkpoint.checkpoint_step(self.place, self.step)

  def load(
    self, experiment: Experiment, mesh: Mesh
  ) -> tuple[model.Params, dict[str, Any]]:
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
    shardings = tree_shardings(model.shapes(config), mesh)
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
    return model.bind(experiment.model, params), protocol


def run_weights(
  place: str, config: DiTConfig, mesh: Mesh, which: str, step: int | None = None
) -> tuple[model.Params, int]:
  """One set of a run's weights.

  Args:
    place: the run's workdir.
    config: its network.
    mesh: where to put them.
    which: 'ema', 'raw', or 'ema:WIDTH', a power-function average.
    step: of the checkpoint or snapshot; None for the newest.

  Returns:
    The weights, and their step.
  """
  if (width := _width_of(which)) is not None:
    return snapshots.reconstruct(place, config, mesh, width, step)
  return checkpoint.restore_weights(place, config, mesh, which, step)


def _width_of(which: str) -> float | None:
  """WIDTH of 'ema:WIDTH'; None for other names that are known."""
  name, _, width = which.partition(':')
  if not width:
    check_choice('--weights', which, checkpoint.WEIGHTS)
    return None
  try:
    if name == 'ema':
      return float(width)
  except ValueError:
    pass
  raise InputError(
    f'--weights is {which!r}, expected {", ".join(checkpoint.WEIGHTS)}, or '
    'ema:WIDTH such as ema:0.1.'
  )


def check_start(experiment: Experiment) -> None:
  """Raises InputError unless `train.init_from` holds weights of the network."""
  source = Source.at(experiment.train.init_from)
  check_same(experiment, source)
  source.check()


def check_unquantised(source: Source) -> None:
  """Raises InputError for quantised weights: training needs all of them."""
  scheme = None
  if not source.is_run:
    scheme = weights.scheme_of(weights.load_config(source.place)[1])
  if scheme is not None:
    raise InputError(
      f'{source.place} holds {scheme} weights, and training needs unquantised '
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
  check_unquantised(source)
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


def start_weights(experiment: Experiment, mesh: Mesh) -> model.Params:
  """The weights that `train.init_from` names; of a run the average."""
  source = Source.at(experiment.train.init_from)
  logging.info('Starting with the weights of %s.', source.place)
  return source.load(source.open(()), mesh)[0]


def check_guide(guide: Experiment, experiment: Experiment) -> None:
  """Raises InputError where a guide is not for the same task."""
  for name in ('latent_shape', 'num_classes'):
    theirs, ours = (getattr(e.model, name) for e in (guide, experiment))
    if theirs != ours:
      raise InputError(
        f'the guide has {name} {theirs}, the network {ours}; they must be '
        'trained for the same task.'
      )
  if guide.objective.path != experiment.objective.path:
    raise InputError(
      f'the guide is of path {guide.objective.path}, the network of '
      f'{experiment.objective.path}; velocities differ.'
    )


def _open_folder(folder: str, overrides: Sequence[str]) -> Experiment:
  network, info = weights.load_config(folder)
  config = load_config('configs/base.py')
  config.sample.update(SAMPLING.get(str(info.get('family')), {}))
  config.sample.update(_sampler_of(folder, info, config.sample.to_dict()))
  experiment = build(_override(config, overrides, 'folder').to_dict())
  path = 'discrete' if network.convention == 'noise' else 'linear'
  return dataclasses.replace(
    experiment,
    model=network,
    objective=dataclasses.replace(
      experiment.objective,
      path=info.get('path', path),
      label_dropout=experiment.objective.label_dropout * network.null_label,
    ),
  )


def _sampler_of(
  folder: str, info: dict[str, Any], defaults: dict[str, Any]
) -> dict[str, Any]:
  """The section `sample` of the run that a folder came from, checked."""
  section = info.get('sample', {})
  where = f'{folder}/config.json'
  if not isinstance(section, dict):
    raise InputError(f'{where} has a "sample" that is no section.')
  known = [key for key in defaults if key != OF_MACHINE]
  for key, value in section.items():
    if key not in known:
      raise InputError(
        f'{where} has an unknown key {json.dumps(f"sample.{key}")}; is it of a '
        'newer version?' + nearest(key, known)
      )
    kind = type(defaults[key])
    fits = type(value) is kind or (kind, type(value)) == (float, int)
    # Steps of a stranger's file must not fill the memory; nan is no number.
    if not fits or (kind is not str and not abs(value) <= _MOST):
      raise InputError(
        f'{where} has sample.{key} = {json.dumps(value)[:100]}, expected '
        f'{kind.__name__}' + f' up to {_MOST}' * (kind is not str) + '.'
      )
  return section


def read_autoencoder(
  text: str | None, mesh: Mesh, half: str
) -> Autoencoder | None:
  """Reads an autoencoder.

  Args:
    text: 'NAME:FILE[,FILE...]', a name of `autoencoder.AUTOENCODERS` and its
      published files, a file of latent statistics among them; None, or
      'pixels', where latents are images.
    mesh: where to put the weights, whole on every device.
    half: that is needed, 'encoder' or 'decoder'.

  Raises:
    InputError: if the files are not those of the name, or lack the half.
  """
  if text in (None, 'pixels'):
    return None
  name, _, files = text.partition(':')
  check_choice('--autoencoder', name, autoencoder.AUTOENCODERS)
  tensors = [read_tensors(file)[0] for file in filter(None, files.split(','))]
  statistics = [t for t in tensors if t.keys() == {'mean', 'std'}]
  rest = [t for t in tensors if t.keys() != {'mean', 'std'}]
  loaded = autoencoder.load(
    name, *rest, statistics=statistics[0] if statistics else None
  )
  if half not in loaded.params:
    raise InputError(f'autoencoder {text} has no {half}; add its file.')
  return jax.device_put(loaded, replicated(mesh))


def read_decoder(
  text: str | None, experiment: Experiment, latents: dict[str, Any], mesh: Mesh
) -> Autoencoder | None:
  """Reads what makes images of the network's latents.

  Args:
    text: as `read_autoencoder` takes it.
    experiment: of the network.
    latents: what the run or folder knows of its latents; see `Source.latents`.
    mesh: where to put the weights.

  Returns:
    The autoencoder, with the normalisation that the network was trained with;
    None where latents are images.

  Raises:
    InputError: if its latents are not the network's, or one is needed.
  """
  decoder = read_autoencoder(text, mesh, 'decoder')
  check_decoder(decoder, experiment.model.channels)
  if text is None or decoder is None or not latents:
    return decoder
  trained_on = latents['autoencoder']
  name = text.partition(':')[0]
  if name != trained_on['name']:
    raise InputError(
      f'--autoencoder is {name}, but the network was trained on latents of '
      f'{trained_on["name"]}.'
    )
  encoder = decoder.params.get('encoder')
  if encoder and model.fingerprint(encoder) != trained_on['encoder_sha256']:
    raise InputError(
      f'the encoder in {text} is not that of the latents that the network was '
      'trained on; give the file that they were prepared with.'
    )
  normalisation = Normalisation(
    *(tuple(latents['normalisation'][name]) for name in ('mean', 'std'))
  )
  return dataclasses.replace(decoder, normalisation=normalisation)


def check_decoder(decoder: Autoencoder | None, channels: int) -> None:
  """Raises InputError unless it makes images of latents of `channels`."""
  if decoder is None and channels not in (1, 3):
    raise InputError(
      f'the network makes latents of {channels} channels, no images; say what '
      'decodes them, such as --autoencoder=sd_vae:vae.safetensors.'
    )
  if decoder is not None and decoder.latent_channels != channels:
    raise InputError(
      f'the autoencoder has {decoder.latent_channels} latent channels, the '
      f'network {channels}; choose the one that it was trained on.'
    )


def _override(
  config: ml_collections.ConfigDict, overrides: Sequence[str], what: str
) -> ml_collections.ConfigDict:
  known = workdir.flatten(config.to_dict())
  for assignment in overrides:
    key = assignment.partition('=')[0]
    if key in known and not workdir.is_free(key):
      raise InputError(
        f'config key {key} belongs to the {what} and cannot be changed here; '
        f'{", ".join(workdir.FREE)} can.'
      )
  return override(config, overrides)


def sampling_of(experiment: Experiment) -> dict[str, Any]:
  """The section `sample` without what changes no image, for a folder's info."""
  sampling = dataclasses.asdict(experiment.sample)
  del sampling[OF_MACHINE]
  return sampling
