"""`build` makes an experiment from plain config values, or refuses them."""

import json
import pathlib

import pytest
from refusals import is_refused

from train import config_file
from train.experiment import Experiment, build
from train.setup import open_setup

ROOT = pathlib.Path(__file__).parents[2]
FAMILIES = {
  'SiT': ('layernorm', 'gelu', False, False, 'velocity'),
  'DiT': ('layernorm', 'gelu', False, True, 'noise'),
  'LightningDiT': ('rmsnorm', 'swiglu', True, False, 'reversed'),
}
ARCHITECTURE = ('norm', 'mlp', 'rope', 'learned_variance', 'convention')


def plain(**model):
  config = config_file.load_config(str(ROOT / 'configs/base.py')).to_dict()
  config['model'] |= model
  return config


def architecture(config):
  return tuple(getattr(build(config).model, key) for key in ARCHITECTURE)


def refused(config, *words):
  is_refused(lambda: open_setup(build(config)), *words)


@pytest.mark.parametrize('name', ['SiT', 'LightningDiT'])
def test_auto_architecture_is_that_of_the_name(name):
  assert architecture(plain(name=f'{name}-XL/2')) == FAMILIES[name]


def test_auto_architecture_of_dit_but_for_its_convention():
  config = plain(name='DiT-XL/2', convention='velocity')
  assert architecture(config) == (*FAMILIES['DiT'][:4], 'velocity')


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('key', ['rope', 'learned_variance'])
@pytest.mark.parametrize(('text', 'value'), [('true', True), ('false', False)])
def test_text_of_booleans(name, key, text, value):
  config = plain(name=f'{name}-B/2', convention='velocity', **{key: text})
  assert getattr(build(config).model, key) is value
  others = {k for k in ARCHITECTURE if k not in (key, 'convention')}
  auto = build(plain(name=f'{name}-B/2', convention='velocity')).model
  for other in others:
    assert getattr(build(config).model, other) == getattr(auto, other)


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('norm', ['layernorm', 'rmsnorm'])
@pytest.mark.parametrize('mlp', ['gelu', 'swiglu'])
def test_given_values_win_over_the_name(name, norm, mlp):
  given = {'depth': 9, 'width': 32, 'num_heads': 4, 'norm': norm, 'mlp': mlp,
           'convention': 'reversed'}  # fmt: skip
  model = build(plain(name=f'{name}-S/4', **given)).model
  assert {key: getattr(model, key) for key in given} == given
  assert model.patch == 4


def test_zeros_are_filled_in_from_the_name():
  model = build(plain(name='SiT-S/2')).model
  assert (model.depth, model.width, model.num_heads) == (12, 384, 6)
  model = build(plain(name='SiT-S/2', depth=10)).model
  assert (model.depth, model.width, model.num_heads) == (10, 384, 6)


@pytest.mark.parametrize(('key', 'value', 'words'), [
  ('rope', 'True', ["model.rope is 'True'", 'auto, true, false', "'true'"]),
  ('rope', 'yes', ["model.rope is 'yes'", 'auto, true, false']),
  ('rope', '', ["model.rope is ''", 'auto, true, false']),
  ('rope', 1, ['model.rope is 1', 'auto, true, false']),
  ('rope', None, ['model.rope is None', 'auto, true, false']),
  ('learned_variance', 'fasle', ["Did you mean 'false'"]),
  ('learned_variance', 'automatic', ["Did you mean 'auto'"]),
  ('norm', 'rms', ["model.norm is 'rms'", 'layernorm, rmsnorm']),
  ('mlp', 'swigul', ["Did you mean 'swiglu'"]),
  ('convention', 'nosie', ["Did you mean 'noise'"]),
  ('name', 'lightningdit-XL/1', ["Did you mean 'LightningDiT-XL/2'"]),
  ('name', '', ["model.name is ''", 'such as SiT-XL/2']),
])  # fmt: skip
def test_wrong_values_are_refused(key, value, words):
  refused(plain(**{key: value}), *words)


@pytest.mark.parametrize('model', [
  {'name': 'DiT-XL/2'},
  {'convention': 'noise'},
  {'name': 'LightningDiT-B/1', 'convention': 'noise'},
])  # fmt: skip
def test_networks_of_noise_are_not_trained_on_velocities(model):
  words = 'model.convention is noise', 'objective.prediction is velocity'
  refused(plain(**model), *words, 'configs/dit.py')


def test_networks_of_data_need_the_prediction_of_data():
  words = 'model.convention is data', 'objective.prediction is velocity'
  refused(plain(convention='data'), *words, 'only both or neither')


def test_config_without_a_name():
  config = plain()
  del config['model']['name']
  refused(config, "section 'model' lacks ['name']", 'another version')
  refused({**config, 'model': {}}, "lacks ['name']")


@pytest.mark.parametrize('section', ['model', 'objective', 'seed'])
def test_config_without_a_section(section):
  config = plain()
  del config[section]
  refused(config, 'the config has the sections', 'another version')
  refused({**plain(), 'extra': {}}, "'extra'", 'another version')


def test_config_of_an_earlier_version():
  """A key missing in an old config gets the value for the old behavior."""
  config = plain()
  for section, key, value in (
    ('model', 'attention', 'xla'), ('log', 'wandb', ''),
    ('train', 'accumulate', 1),
  ):  # fmt: skip
    del config[section][key]
    assert getattr(getattr(build(config), section), key) == value


@pytest.mark.parametrize(
  ('section', 'key'),
  [('model', 'num_classes'), ('log', 'preview_num'), ('train', 'images')],
)
def test_config_that_lacks_a_key_or_has_another(section, key):
  config = plain()
  config[section][f'{key}s'] = value = config[section].pop(key)
  words = f'section {section!r} lacks', f"['{key}']", f"['{key}s']"
  refused(config, *words, 'another version')
  config[section][key] = value  # Only the unknown key is wrong now.
  refused(config, f'lacks [] and has unknown {words[2]}')
  del config[section][key], config[section][f'{key}s']
  refused(config, f'lacks {words[1]} and has unknown []')


def test_building_changes_no_value_and_reads_json():
  config = plain(name='LightningDiT-B/2', rope='false')
  before = json.dumps(config)
  experiment = build(config)
  assert isinstance(experiment, Experiment)
  assert json.dumps(config) == before
  assert build(json.loads(before)) == experiment
  assert hash(build(json.loads(before)).model) == hash(experiment.model)
