"""Eight simulated CPU devices, and what several tests share."""

import fcntl
import json
import os

os.environ['JAX_PLATFORMS'] = 'cpu'
# A slow machine is no reason to give a collective of the eight devices up.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    '--xla_cpu_collective_call_warn_stuck_timeout_seconds=300',
    # Else devices may start independent collectives in different orders.
    '--xla_cpu_enable_concurrency_optimized_scheduler=false',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600',
  ]
)

import jax
import networks
import pytest
from command_runs import DIGITS, ROOT, TINY, quickly, run

from dit.config import DiTConfig
from input_pipeline.sources import DataConfig, open_source
from train import config_file
from train.experiment import build

# Two programs in flight can starve each other of the threads that eight
# simulated devices share.
jax.config.update('jax_cpu_enable_async_dispatch', False)

# An experiment on the digits.
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


@pytest.fixture(scope='session')
def config():
  """A small network with two taps."""
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
  """The small network with weights of which none is zero."""
  return networks.perturbed(config)


@pytest.fixture
def batch(config):
  """x, t and label of six rows; the last label is the null label."""
  x = jax.random.normal(jax.random.key(2), (6, *config.latent_shape))
  t = jax.numpy.linspace(0.05, 1, 6)
  label = jax.numpy.asarray([0, 3, 9, 3, 5, config.num_classes])
  return x, t, label


@pytest.fixture(scope='module')
def quick_compilation():
  """For programs that run a few steps: compiled quickly instead of well."""
  with quickly():
    yield


@pytest.fixture(scope='session')
def shared_run(tmp_path_factory):
  """A trained run; the first of pytest's workers to come makes it."""
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent
  folder = folder / 'trained'
  folder.mkdir(exist_ok=True)
  with (folder / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (folder / 'command.json').exists():
      argv = ['train', DIGITS, f'--workdir={folder}/run']
      values = TINY | {'data.dir': folder / 'data'}
      argv += [f'--config.{key}={value}' for key, value in values.items()]
      with quickly():
        result = run(*argv)
      assert result.status == 0, result.err
      (folder / 'command.json').write_text(json.dumps([argv, result.err]))
  return folder


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
    given = (*SMALL, f'data.dir={data_dir}', *assignments)
    return config_file.override(config, given).to_dict()

  return make


@pytest.fixture(scope='session')
def make_experiment(make_config):
  """Function of assignments to an experiment."""
  return lambda *assignments: build(make_config(*assignments))
