"""Simulates eight CPU devices, and defines fixtures for all test folders."""

import atexit
import ctypes
import functools
import gc
import json
import os
import resource
import shutil
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['OPENBLAS_NUM_THREADS'] = '1'  # Parallel pytest workers share cores.
# Tests run few steps, so fast compilation matters more than fast programs. All
# pytest workers and their child processes share one compilation cache.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'])
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
# Long timeouts let collectives of the eight devices finish on slow machines.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    '--xla_cpu_collective_call_warn_stuck_timeout_seconds=300',
    # With this scheduler, devices could order their collectives differently.
    '--xla_cpu_enable_concurrency_optimized_scheduler=false',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600',
  ]
)

import jax
import networks
import orbax.checkpoint as ocp
import pytest
from command_runs import (
  DIGITS,
  MINE,
  ROOT,
  TINY,
  command_line,
  made_once,
  run,
)

from dit.config import DiTConfig
from input_pipeline.sources import DataConfig, open_source
from train import config_file
from train.experiment import build

# The eight simulated devices share threads. Two programs that run at the same
# time could therefore wait for each other forever.
jax.config.update('jax_cpu_enable_async_dispatch', False)

# This keeps Orbax from compiling a sharding program for each array shape.
ocp.type_handlers.register_type_handler(
  jax.Array,
  ocp.type_handlers.ArrayHandler(use_replica_parallel=False),
  override=True,
)

SMALL = (
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
def little_memory():
  """Frees compiled programs if the process uses more than 1.4 GiB."""
  yield
  with open('/proc/self/statm') as file:
    pages = int(file.read().split()[1])
  if pages * resource.getpagesize() > 1.4 * 2**30:
    jax.clear_caches()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # This returns free memory to the system.


@pytest.fixture(scope='session')
def config():
  return DiTConfig(
    size=8,
    channels=3,
    num_classes=10,
    patch=2,
    depth=5,
    width=32,
    num_heads=4,
    taps=(2, 3),
  )


@pytest.fixture(scope='session')
def denoiser(config):
  """A small network. Added noise makes every weight nonzero."""
  return networks.perturbed(config)


@pytest.fixture
def batch(config):
  """Six examples of x, t and label. The last label is the null label."""
  x = jax.random.normal(jax.random.key(2), (6, *config.latent_shape))
  t = jax.numpy.linspace(0.05, 1, 6)
  label = jax.numpy.asarray([0, 3, 9, 3, 5, config.num_classes])
  return x, t, label


@pytest.fixture
def good_compilation():
  """Turns on all compiler optimizations for tests of many steps."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='session')
def shared_run(tmp_path_factory):

  def train(folder):
    argv = ['train', DIGITS, f'--workdir={folder}/run']
    values = TINY | {'data.dir': folder / 'data'}
    argv += [f'--config.{key}={value}' for key, value in values.items()]
    result = run(*argv)
    assert result.status == 0, result.err
    (folder / 'command.json').write_text(json.dumps([argv, result.err]))

  return made_once(tmp_path_factory, 'trained', train)


@pytest.fixture(scope='session')
def weights_folder(shared_run, tmp_path_factory):
  """A folder of weights that `convert` made from the shared run."""

  def convert(folder):
    result = run('convert', f'--from={shared_run}/run', f'--to={folder}/digits')
    assert result.status == 0, result.err

  return made_once(tmp_path_factory, 'converted', convert) / 'digits'


@pytest.fixture(scope='session')
def features(shared_run, tmp_path_factory):

  def train(folder):
    data = f'--config.data.dir={shared_run}/data'
    words = DIGITS, data, f'--to={folder}/digits', '--steps=2'
    result = run('train-features', *words)
    assert result.status == 0, result.err

  folder = made_once(tmp_path_factory, 'features', train)
  return f'--extractor=classifier:{folder}/digits'


@pytest.fixture(scope='session')
def mine(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mine')
  (folder / 'mine.py').write_text(MINE)
  return f'--extractor={folder}/mine.py:moments'


@pytest.fixture(scope='session')
def argv(shared_run, mine):
  """Returns `command_line` with its first two arguments already given."""
  return functools.partial(command_line, shared_run, mine)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  config = DataConfig('digits', str(folder), 'train', 'test', 1, 2)
  open_source(config, 'train')
  return folder


@pytest.fixture(scope='session')
def make_config(data_dir):
  """Returns a function that makes a config from texts like 'model.depth=3'."""

  def make(*assignments):
    config = config_file.load_config(str(ROOT / 'configs/digits.py'))
    given = (*SMALL, f'data.dir={data_dir}', *assignments)
    return config_file.override(config, given).to_dict()

  return make


@pytest.fixture(scope='session')
def make_experiment(make_config):
  return lambda *assignments: build(make_config(*assignments))
