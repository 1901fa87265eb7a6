"""A workdir belongs to one run, with one config."""

import copy
import json

import pytest

from core.errors import InputError
from core.nested import flatten
from train import workdir
from train.config_file import load_config


@pytest.fixture
def config(make_config):
  return make_config()


def changed(config, key, value):
  config = copy.deepcopy(config)
  *sections, last = key.split('.')
  inner = config
  for section in sections:
    inner = inner[section]
  assert inner[last] != value
  inner[last] = value
  return config


def test_claim_writes_what_and_where(tmp_path, config):
  folder = workdir.claim(tmp_path / 'a' / 'run', config)
  assert folder.is_dir()
  stored = json.loads((folder / 'config.json').read_text())
  assert flatten(stored) == flatten(config)
  run = json.loads((folder / 'run.json').read_text())
  assert run['devices'] == 8
  assert {'command', 'python', 'packages', 'commit', 'device'} <= run.keys()
  assert run['packages']['jax']


def test_same_config_claims_again(tmp_path, config):
  workdir.claim(tmp_path, config)
  # The stored config has lists instead of tuples, but is the same config.
  workdir.claim(tmp_path, workdir.load_config(tmp_path))
  workdir.claim(tmp_path, config)


@pytest.mark.parametrize('key, value', [
  ('seed', 1), ('model.width', 32), ('model.taps', ()), ('optimizer.lr', 0.5),
  ('train.batch_size', 32), ('data.name', 'mnist'),
  ('objective.label_dropout', 0.3),
])  # fmt: skip
def test_another_config_names_its_keys(tmp_path, config, key, value):
  workdir.claim(tmp_path, config)
  before = (tmp_path / 'config.json').read_bytes()
  old = flatten(config)[key]
  with pytest.raises(InputError) as error:
    workdir.claim(tmp_path, changed(config, key, value))
  new = list(value) if isinstance(value, tuple) else value
  assert f'({key}: {old} -> {new})' in str(error.value)
  assert '\n' not in str(error.value)
  assert (tmp_path / 'config.json').read_bytes() == before


@pytest.mark.parametrize('key, value', [
  ('checkpoint.keep', 9), ('eval.num', 77), ('data.dir', '/elsewhere'),
  ('data.threads', 3), ('data.prefetch', 9), ('log.every_images', 32),
  ('mesh.fsdp', 8), ('model.remat', 'full'), ('model.scan', False),
  ('sample.steps', 7), ('train.max_bad_steps', 99),
])  # fmt: skip
def test_free_keys_may_change(tmp_path, config, key, value):
  workdir.claim(tmp_path, config)
  workdir.claim(tmp_path, changed(config, key, value))
  assert flatten(workdir.load_config(tmp_path))[key] == value


def test_sections_of_earlier_versions_keep_no_run_from_resuming(
  tmp_path, config
):
  earlier = config | {'compare': {'num': 5}, 'prepare': {'threads': 2}}
  (tmp_path / 'config.json').write_text(json.dumps(earlier))
  workdir.claim(tmp_path, config)


def test_a_key_of_a_later_version_has_its_default(tmp_path):
  config = load_config('configs/distill/digits.py').to_dict()
  earlier = copy.deepcopy(config)
  del earlier['distill']['step_per_image'], earlier['optimizer']['eps']
  workdir.claim(tmp_path, earlier)
  with pytest.raises(InputError, match=r'distill\.step_per_image: False -> '):
    workdir.claim(tmp_path, changed(config, 'distill.step_per_image', True))
  workdir.claim(tmp_path, config)
  assert flatten(workdir.load_config(tmp_path)) == flatten(config)


@pytest.fixture
def trained(tmp_path, make_config):
  workdir.claim(tmp_path, make_config())
  (tmp_path / 'checkpoints' / '20').mkdir(parents=True)
  return tmp_path


@pytest.mark.parametrize('schedule', ['constant', 'cosine'])
def test_length_may_grow(tmp_path, make_config, monkeypatch, schedule):
  said = []
  monkeypatch.setattr(
    workdir.logging, 'info', lambda text, *args: said.append(text % args)
  )
  kept = f'optimizer.schedule={schedule}'
  workdir.claim(tmp_path, make_config(kept))
  (tmp_path / 'checkpoints' / '20').mkdir(parents=True)
  workdir.claim(tmp_path, make_config(kept, 'train.images=640'))
  assert workdir.load_config(tmp_path)['train']['images'] == 640
  assert 'train.images: 320 -> 640' in said[0]
  follows = [line for line in said if 'follows the cosine schedule' in line]
  assert len(follows) == (schedule == 'cosine')
  assert all('From step 21 on' in line for line in follows)


def test_length_is_not_behind_what_is_trained(trained, make_config):
  before = (trained / 'config.json').read_bytes()
  with pytest.raises(InputError, match='has trained 320 already') as error:
    workdir.claim(trained, make_config('train.images=319'))
  assert 'train.images is 319' in str(error.value)
  assert (trained / 'config.json').read_bytes() == before
  workdir.claim(trained, make_config('train.images=335'))  # still 20 steps


def test_length_of_a_stage_is_fixed(trained, make_config):
  config = make_config('train.images=640')
  with pytest.raises(InputError, match=r'train\.images: 320 -> 640'):
    workdir.claim(trained, config, extensible=False)


def test_length_changes_with_no_other_key(trained, make_config):
  with pytest.raises(InputError, match=r'\(seed: 0 -> 1\)'):
    workdir.claim(trained, make_config('train.images=640', 'seed=1'))
  assert workdir.load_config(trained)['train']['images'] == 320


def test_missing_key_differs(tmp_path, config):
  """A config without a key of the stored config must not resume the run."""
  workdir.claim(tmp_path, config)
  del config['optimizer']['b1']
  with pytest.raises(InputError, match=r'optimizer\.b1: 0\.9 -> absent'):
    workdir.claim(tmp_path, config)


def test_home_is_expanded(tmp_path, config, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  workdir.claim('~/run', config)
  assert (tmp_path / 'run' / 'config.json').exists()
  assert workdir.load_config('~/run')['seed'] == 0


def test_damaged_config_is_said(tmp_path, config):
  (tmp_path / 'config.json').write_text('{"seed": ')
  for use in (workdir.load_config, lambda path: workdir.claim(path, config)):
    with pytest.raises(InputError, match='is damaged'):
      use(tmp_path)


@pytest.mark.parametrize(
  'key, free', [('data.dir', True), ('data.name', False), ('log', True),
                ('sample.steps', True), ('samples', False), ('seed', False)]
)  # fmt: skip
def test_free_keys(key, free):
  assert workdir.is_free(key) == free
