"""Access to the network in a run or in a folder of weights.

Default settings for sampling come from the run, from the run that was converted
to the folder, or from the family of a published file (docs/checkpoints.md).
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from core.errors import InputError, check_choice, nearest
from core.files import read_json
from core.nested import with_tuples
from core.ranges import PathText, check_value
from core.renamed_keys import upgrade
from dit import backbone
from dit.base import NetworkConfig, Params
from dit.latents import LatentSpace
from dit.weights import folder as folders
from dit.weights.files import HUB, WEB, local
from dit.weights.restore import WEIGHTS, restore_weights
from sample.generate import SampleConfig

LATENTS = 'latents.json'  # file in the workdir of a run
# Changes to the defaults of `SampleConfig`, by family of published files. The
# defaults fit the family `ig_sit`.
_LIGHTNING: dict[str, Any] = {
  'last_step_size': 0.0,
  'shift': 1 / 0.3,
  'scales_at': 'evaluation',
}
SAMPLING: dict[str, dict[str, Any]] = {
  'dit': {'solver': 'ddpm', 'respacing': '250'},
  'sit': {'solver': 'euler_maruyama:diffusion=sigma'},
  'lightningdit': {'solver': 'euler', 'steps': 249, **_LIGHTNING},
  'ig_lightningdit': {
    'solver': 'heun:final_step=heun',
    'steps': 124,
    **_LIGHTNING,
  },
}
OF_MACHINE = 'batch_size'  # key of `sample` that does not affect images


@dataclasses.dataclass(frozen=True)
class SavedNetwork:
  """A network on disk, with `metadata` from its config.json.

  A damaged part raises InputError when it is first used.
  """

  place: epath.Path
  metadata: Mapping[str, Any]

  @property
  def is_run(self) -> bool:
    """Returns whether `place` is a run rather than a folder of weights."""
    return 'format' not in self.metadata

  @functools.cached_property
  def config(self) -> NetworkConfig:
    """Configuration of the network; damage raises InputError."""
    if not self.is_run:
      return self._folder[0]
    try:
      dropout = self.metadata['objective']['label_dropout']
      return _network_config(self.metadata['model'], null_label=bool(dropout))
    except (KeyError, TypeError) as error:
      raise self._not_a_run(error) from error

  @property
  def info(self) -> dict[str, Any]:
    """Entries of a folder's config.json that are not network settings."""
    return self._folder[1]

  @functools.cached_property
  def path(self) -> str:
    """Name of the path that the network was trained on."""
    if not self.is_run:
      default = 'discrete' if self.config.convention == 'noise' else 'linear'
      return self.info.get('path', default)
    try:
      return self.metadata['objective']['path']
    except (KeyError, TypeError) as error:
      raise self._not_a_run(error) from error

  @functools.cached_property
  def sampling(self) -> SampleConfig:
    """Default settings for sampling the network."""
    if not self.is_run:
      return self._sampling_of_folder()
    try:
      return SampleConfig(**with_tuples(self.metadata['sample']))
    except (AttributeError, KeyError, TypeError) as error:
      raise self._not_a_run(error) from error

  @functools.cached_property
  def latents(self) -> LatentSpace:
    """Latent space of the training data; unknown parts are empty."""
    if not self.is_run:
      return LatentSpace.from_json(self.info.get('latents'))
    return load_latents(self.place)

  def load(
    self, mesh: Mesh, weights: str = 'ema', step: int | None = None
  ) -> Params:
    """Returns the weights, placed on a mesh.

    Args:
      mesh: Devices.
      weights: Weights of a run, 'ema' or 'raw'; a folder has one set.
      step: Step of a run's checkpoint; None for the newest.
    """
    if self.is_run:
      check_choice('weights', weights, WEIGHTS)
      return restore_weights(self.place, self.config, mesh, weights, step)[0]
    params = folders.load_folder(self.place)[1]
    shardings = backbone.shardings(
      self.config, backbone.shapes(self.config), mesh
    )
    return jax.device_put(params, shardings)

  def _sampling_of_folder(self) -> SampleConfig:
    """Returns a folder's sampling settings, which users may have edited."""
    family = SAMPLING.get(str(self.info.get('family')), {})
    section = self.info.get('sample', {})
    source = f'{self.place}/config.json'
    if not isinstance(section, dict):
      raise InputError(f'"sample" in {source} is not a section.')
    names = {f.name for f in dataclasses.fields(SampleConfig)} - {OF_MACHINE}
    for key in section:
      if key not in names:
        raise InputError(
          f'{source} has an unknown key {json.dumps(f"sample.{key}")}; is it '
          'from a newer version?' + nearest(key, names)
        )
    try:
      return SampleConfig(**{**family, **section})
    except InputError as error:
      raise InputError(f'{source}: {error}') from error

  @functools.cached_property
  def _folder(self) -> tuple[NetworkConfig, dict[str, Any]]:
    return folders.load_config(self.place)

  def _not_a_run(self, error: Exception) -> InputError:
    return InputError(
      f'{self.place}/config.json is not from a run, or from another version '
      f'({type(error).__name__}: {error}).'
    )


def open_network(place: epath.PathLike) -> SavedNetwork:
  """Opens a run or a folder of weights, without reading weights.

  Raises:
    InputError: if `place` is neither a run nor a folder of weights.
  """
  return SavedNetwork(epath.Path(place).expanduser(), load_config(place))


def load_config(place: epath.PathLike) -> dict[str, Any]:
  """Returns config.json of a run or folder; raises InputError if missing."""
  if os.fspath(place).startswith((HUB, WEB)):
    local(os.fspath(place))  # raises InputError with the conversion command
  check_value('the workdir', os.fspath(place), PathText)
  path = epath.Path(place).expanduser() / 'config.json'
  try:
    path.stat()
  except (OSError, ValueError) as error:  # a name may be too long
    raise InputError(
      f'{place} is not the workdir of a run: it holds no config.json; train '
      'first, or give the workdir of a run.'
    ) from error
  return upgrade(read_json(path))


def load_latents(workdir: epath.PathLike) -> LatentSpace:
  """Returns the latent space of a run; unknown parts are empty."""
  path = epath.Path(workdir).expanduser() / LATENTS
  values = read_json(path) if path.exists() else {}
  if values and 'decoder' not in values:
    values['decoder'] = _decoder_before(load_config(workdir))
  return LatentSpace.from_json(values)


def _network_config(
  section: Mapping[str, Any], *, null_label: bool
) -> NetworkConfig:
  """Returns the network config from the section `model` of a run."""
  kind, network = backbone.settings_of(section, null_label=null_label)
  return kind(**with_tuples(network))


def _decoder_before(config: Mapping[str, Any]) -> dict[str, str] | None:
  """Returns the decoder in the config of an older run."""
  for section, key in (('eval', 'autoencoder'), ('log', 'preview_autoencoder')):
    if text := config.get(section, {}).get(key):
      return {'autoencoder': text}
  return None
