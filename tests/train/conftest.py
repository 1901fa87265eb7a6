"""Small experiments on the digits."""

import pathlib

import pytest

from input_pipeline.sources import DataConfig, open_source
from train import config_file
from train.experiment import build

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
  'model.depth=2',
  'model.width=16',
  'model.num_heads=2',
  'model.taps=(1,)',
  'train.batch_size=16',
  'train.images=320',
  'optimizer.warmup_images=32',
  'log.preview_every_images=0',
)


@pytest.fixture(scope='module', autouse=True)
def quickly(quick_compilation):
  """Programs here run a few steps."""


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """A folder that holds the digits."""
  folder = tmp_path_factory.mktemp('data')
  config = DataConfig('digits', str(folder), 'train', 'test', 1, 2)
  open_source(config, 'train')
  return folder


@pytest.fixture(scope='session')
def make_config(data_dir):
  """Function of assignments, as on the command line, to plain values."""

  def make(*assignments):
    config = config_file.load_config(str(ROOT / 'configs/digits.py'))
    given = (*TINY, f'data.dir={data_dir}', *assignments)
    return config_file.override(config, given).to_dict()

  return make


@pytest.fixture(scope='session')
def make_experiment(make_config):
  """Function of assignments to an experiment."""
  return lambda *assignments: build(make_config(*assignments))
