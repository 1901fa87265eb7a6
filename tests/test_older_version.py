"""A run and a weight folder of an older version still work.

tests/golden/README.md lists the commands that made both. The older version
had other config keys (`core.renamed_keys`) and stored every config section.
"""

import shutil
import zipfile

import numpy as np
import pytest
from command_runs import DIGITS, ROOT, run

from core.nested import flatten
from core.renamed_keys import REMOVED, RENAMED, RENAMED_VALUES, upgrade
from dit.sharding import make_mesh
from dit.weights.convert import flatten as flatten_params
from dit.weights.folder import load_folder
from train.config_file import load_config
from train.runs import Source

COMMAND = (
  '--config.model.depth=2', '--config.model.width=16',
  '--config.model.num_heads=2', '--config.model.taps=(1,)',
  '--config.optimizer.warmup_images=64', '--config.train.images=64',
  '--config.train.batch_size=16', '--config.checkpoint.every_images=32',
  '--config.log.every_images=32', '--config.log.preview_every_images=0',
  '--config.sample.steps=3', '--config.sample.batch_size=8',
)  # fmt: skip


@pytest.fixture(scope='module')
def older(tmp_path_factory):
  place = tmp_path_factory.mktemp('older')
  with zipfile.ZipFile(ROOT / 'tests/golden/older_version.zip') as file:
    file.extractall(place)
  return place


@pytest.mark.parametrize(
  ('name', 'flag'), [('run', '--workdir'), ('weights', '--folder')]
)
def test_images_stay(older, tmp_path, name, flag):
  result = run('sample', f'{flag}={older}/{name}', '--num=8',
               '--guidance=ig:1.5,cfg:1.2', f'--out={tmp_path}')  # fmt: skip
  assert result.status == 0, result.err
  expected = np.load(older / f'{name}.npz')['arr_0'].astype(int)
  images = np.load(tmp_path / 'samples.npz')['arr_0'].astype(int)
  assert images.shape == expected.shape == (8, 8, 8, 1)
  assert expected.std() > 10
  difference = np.abs(images - expected)
  # If the number of devices differs, a few pixels may differ by one level.
  assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.slow
def test_the_run_resumes(older, tmp_path):
  shutil.copytree(older / 'run', tmp_path / 'run')
  result = run('train', DIGITS, f'--workdir={tmp_path}/run', *COMMAND,
               f'--config.data.dir={tmp_path}/data')  # fmt: skip
  assert result.status == 0, result.err
  assert 'Trained 4 steps' in result.err
  source = Source.at(str(tmp_path / 'run'))
  experiment = source.open(())
  params, about = source.load(experiment, make_mesh(experiment.mesh))
  assert about['step'] == 4
  _, expected, _ = load_folder(older / 'weights')
  params, expected = flatten_params(params), flatten_params(expected)
  assert params.keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_allclose(params[key], value, rtol=1e-5, atol=1e-6)


def test_renamed_keys_are_keys():
  keys = flatten(load_config('configs/distill/base.py').to_dict())
  assert {*RENAMED.values(), *RENAMED_VALUES} <= keys.keys()
  assert not keys.keys() & {*RENAMED, *REMOVED}


@pytest.mark.parametrize('key', RENAMED)
def test_a_renamed_key_is_answered_with_its_new_name(key):
  result = run('train', DIGITS, f'--config.{key}=1')
  assert result.status == 2
  assert f"Did you mean '{RENAMED[key]}'?" in result.err


def test_renamed_values():
  old = {
    'distill': {'method': 'trajectory', 'query': 'trajectory'},
    'sample': {'solver': 'euler_maruyama:diffusion=sigma:last=tweedie'},
  }
  new = {
    'distill': {'method': 'teacher_trajectory', 'query': 'student_trajectory'},
    'sample': {'solver': 'euler_maruyama:diffusion=sigma:final_step=tweedie'},
  }
  assert upgrade(old) == new == upgrade(new)
  assert upgrade({'distill': {'method': ''}}) == {}
  result = run('train', DIGITS, '--config.sample.solver=heun:last=heun')
  assert result.status == 2 and "Did you mean 'final_step'?" in result.err
