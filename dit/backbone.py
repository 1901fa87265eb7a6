"""The list of backbones, and functions that select one by config or family.

  kind, fields = settings_of({'name': 'SiT-XL/2', ...}, null_label=True)
  config = kind(**fields)
  params = init(config, key)
  denoiser = bind(config, params)

The family is the part of `model.name` before the first '-'.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from core.errors import InputError, check_choice, quote
from core.ranges import check_value
from dit import model, sharding
from dit.base import Backbone, BoundNetwork, NetworkConfig, Params
from dit.config import unknown_name

BACKBONES: tuple[Backbone, ...] = (model.BACKBONE,)


def backbone_of(config: NetworkConfig) -> Backbone:
  """Returns the backbone of a config, by the config's type."""
  return next(b for b in BACKBONES if b.config is type(config))


def init(config: NetworkConfig, key: jax.Array) -> Params:
  """Returns initial parameters, which `jax.jit` can create in sharded form."""
  return backbone_of(config).init(config, key)


@functools.cache
def shapes(config: NetworkConfig) -> Params:
  """Returns the parameters' shapes and dtypes without allocating them."""
  return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def bind(config: NetworkConfig, params: Params) -> BoundNetwork:
  """Returns a `Denoiser`, the network with these parameters."""
  return backbone_of(config).denoiser(params, config)


def shardings(
  config: NetworkConfig, tree: Any, mesh: Mesh, *, zero1: bool = False
) -> Any:
  """Returns the shardings of parameters, or of a state containing them."""
  rules = backbone_of(config).logical_axes
  return sharding.tree_shardings(tree, mesh, zero1=zero1, rules=rules)


def check_mesh(
  mesh: Mesh, config: NetworkConfig, *, zero1: bool = False
) -> None:
  """Raises InputError if the mesh cannot shard the network."""
  backbone_of(config).check_mesh(mesh, config, zero1=zero1)


def config_class(family: str | None) -> type[NetworkConfig] | None:
  """Returns the config class of a family such as 'SiT'; None if unknown.

  If `family` is None, the function returns the first config class, DiTConfig.
  """
  if family is None:
    return BACKBONES[0].config
  return next((b.config for b in BACKBONES if family in b.families), None)


def family_of(config: NetworkConfig) -> str | None:
  """Returns a family that `config_class` maps to the type of `config`."""
  backbone = backbone_of(config)
  return None if backbone is BACKBONES[0] else backbone.families[0]


def name_of(config: NetworkConfig) -> str:
  """Returns a model name for `config`; other keys must be set explicitly."""
  return backbone_of(config).name_of(config)


def without_taps(
  config: NetworkConfig, params: Params
) -> tuple[NetworkConfig, Params]:
  """Removes the intermediate heads and their parameters from a network."""
  config = dataclasses.replace(config, taps=())
  return config, _select(params, shapes(config))


def tap_params(config: NetworkConfig, params: Params) -> Params:
  """Returns the parameters of the intermediate heads."""
  names = backbone_of(config).tap_modules
  return {name: tree for name, tree in params.items() if name in names}


def _select(params: Params, target: Params) -> Params:
  """Returns the part of `params` whose paths are in `target`."""
  return {
    name: _select(params[name], tree)
    if isinstance(tree, dict)
    else params[name]
    for name, tree in target.items()
  }


def settings_of(
  section: Mapping[str, Any], *, null_label: bool
) -> tuple[type[NetworkConfig], dict[str, Any]]:
  """Fills in the settings of section `model` that the model's name determines.

  Args:
    section: Keys and values, with a 'name'. Values 0 and 'auto' are replaced.
    null_label: Value that replaces 'auto' for the key `null_label`.

  Returns:
    The class of the network's config, and its fields.

  Raises:
    InputError: if the name is unknown, a Boolean is invalid, or a setting of
      another backbone does not have the default value.
  """
  if 'name' not in section:
    raise InputError(
      "config section 'model' lacks ['name']; is it of another version?"
    )
  check_value('model.name', section['name'], str)
  section = dict(section)
  name = section.pop('name')
  backbone = _find(name)
  fields = [field.name for field in dataclasses.fields(backbone.config)]
  for key in section.keys() - set(fields):
    _drop(section, key, name)
  for key, value in backbone.named(name).items():
    setting = section.get(key, 0)
    if setting == 'auto' or (setting == 0 and setting is not False):
      section[key] = value
  for key in ('rope', 'learned_variance', 'null_label'):
    setting = section.get(key, False)
    if not isinstance(setting, bool):
      check_choice(f'model.{key}', setting, ('auto', 'true', 'false'))
      if setting != 'auto':
        section[key] = setting == 'true'
  if section.get('null_label') == 'auto':
    section['null_label'] = null_label
  return backbone.config, section


def _find(name: str) -> Backbone:
  family = name.partition('-')[0]
  for backbone in BACKBONES:
    if family in backbone.families:
      return backbone
  names = [name for backbone in BACKBONES[1:] for name in backbone.names]
  raise unknown_name(name, names)


def _drop(section: dict[str, Any], key: str, name: str) -> None:
  """Removes another backbone's setting; only its default value is allowed."""
  matches = [
    field
    for backbone in BACKBONES
    for field in dataclasses.fields(backbone.config)
    if field.name == key
  ]
  if not matches:
    return  # The config's constructor reports settings that no backbone has.
  value = section.pop(key)
  if value not in ('auto', 0, *(field.default for field in matches)):
    raise InputError(
      f'model.{key} is {quote(value)}, but {name} has no such setting; leave '
      'it at its default.'
    )
