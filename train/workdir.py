"""Creates, locks and resumes the workdir of a run.

config.json     resolved config
run.json        versions, devices and command of the latest start
latents.json    latent space: autoencoder, normalization, location of the
                decoder's weights, and class names
teacher.json    teacher of a student
checkpoints/    Orbax checkpoints
metrics.jsonl   metrics, one line per logging interval
tensorboard/    the metrics of metrics.jsonl, and preview grids
wandb.json      id of the W&B run, if any
previews/       preview grids as PNG
"""

import contextlib
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
from absl import logging
from etils import epath

from core import program
from core.errors import InputError
from core.files import read_json, write_json
from core.nested import flatten
from core.processes import writing
from core.ranges import PathText, check_value
from dit.weights.checkpoint_names import saved_steps
from sample.saved_network import LATENTS, load_config
from train.config_file import load_config as load_config_file

# Settings that a resumed run may change. They affect weights only by rounding.
FREE = (
  'checkpoint',
  'data.dir',
  'data.prefetch',
  'data.threads',
  'data.workers',
  'distill.merge_ratios',
  'distill.teacher',
  'ema.snapshot_images',
  'eval',
  'log',
  'mesh',
  'model.attention',
  'model.remat',
  'model.scan',
  'sample',
  'train.accumulate',
  'train.max_bad_steps',
)
TEACHER = 'teacher.json'
# Files that training writes, in addition to checkpoints.
WRITES = (
  'config.json',
  'run.json',
  LATENTS,
  TEACHER,
  'metrics.jsonl',
  'wandb.json',
  'loss.png',
  'previews/*.png',
  'merge.json',
  'merge.md',
  'student',
)
_LENGTH = 'train.images'
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


@contextlib.contextmanager
def training(workdir: epath.PathLike, command: str) -> Iterator[epath.Path]:
  """Locks a run during the `with` block, so that only one job trains it.

  All processes of a job call this function. It creates the folder `workdir`,
  local or gs://, and yields the folder. `command` is 'train' or 'distill'.

  Raises:
    InputError: if another job trains the run, or the folder cannot be written.
    WriteError: if the disk is full.
    PrepareError: if another process of the job fails.
  """
  with writing(
    workdir, 'run', command, writes=WRITES, instead='choose another --workdir'
  ) as folder:
    yield folder


def claim(
  workdir: epath.PathLike, config: dict[str, Any], *, extensible: bool = True
) -> epath.Path:
  """Prepares and returns `workdir` for a new or resumed run with this config.

  The caller must have locked the run with `training`. `config` has resolved,
  plain values. An `extensible` run may change `train.images`.

  Raises:
    InputError: if the folder cannot be made or read, if the run has another
      config, or if it has already trained on more than `train.images` images.
    WriteError: if the folder cannot be written.
  """
  check_value('--workdir', os.fspath(workdir), PathText)
  workdir = epath.Path(workdir).expanduser()
  path = workdir / 'config.json'
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if path.exists():
      differences = _differences(load_config(workdir), config)
      length = differences.pop(_LENGTH, None) if extensible else None
      if differences:
        raise InputError(
          f'workdir {workdir} holds another config '
          f'({"; ".join(differences.values())}); choose a new workdir, or give '
          'the config that it holds.'
        )
      if length:
        _change_length(workdir, length, config)
    if jax.process_index() == 0:
      write_json(path, config)
      write_json(workdir / 'run.json', environment())
  except OSError as error:
    raise InputError(
      f'workdir {workdir} cannot be written ({error.strerror or error}); '
      'choose another.'
    ) from error
  return workdir


def _change_length(
  workdir: epath.Path, change: str, config: dict[str, Any]
) -> None:
  """Logs a changed length; raises InputError if the run has trained longer."""
  images, size = (config['train'][key] for key in ('images', 'batch_size'))
  step = max(saved_steps(workdir), default=0)
  if step > max(images // size, 1):
    raise InputError(
      f'train.images is {images}, but the run in {workdir} has trained '
      f'{step * size} already; give at least as many, or a new workdir.'
    )
  logging.info('The length of the run changes: %s.', change)
  schedule = config['optimizer']['schedule']
  if step and schedule != 'constant':
    logging.info(
      'From step %d on, the learning rate follows the %s schedule of the new '
      'length.',
      step + 1,
      schedule,
    )


def load_about(workdir: epath.PathLike, name: str) -> dict[str, Any]:
  """Returns the values in a JSON file of a run; {} if the file is missing."""
  path = epath.Path(workdir).expanduser() / name
  return read_json(path) if path.exists() else {}


def environment() -> dict[str, Any]:
  """Returns software versions, devices and the command of this process."""
  return {
    'command': sys.argv,
    'python': platform.python_version(),
    'packages': {name: metadata.version(name) for name in _PACKAGES},
    'commit': program.commit(),
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'processes': jax.process_count(),
  }


def is_free(key: str) -> bool:
  """Returns whether the value at a dotted key may change within a run."""
  return key in FREE or key.split('.')[0] in FREE


def _differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
  """Returns {key: 'key: old -> new'} for the changes that are not allowed.

  If the old config lacks a newer key, the old value is the key's default, since
  the default reproduces the earlier behavior.
  """
  is_student = 'distill' in new
  base = 'configs/distill/base.py' if is_student else 'configs/base.py'
  config = flatten(load_config_file(base).to_dict())
  extras = {key: config[key] for key in config if key.split('.')[0] in old}
  old, new = extras | flatten(old), flatten(new)

  def may_differ(key):
    # The training of a student depends on its sampling grid and solver.
    if is_student and key.startswith('sample.'):
      name = key.removeprefix('sample.')
      return name in ('batch_size', 'state_dtype', 'truncate')
    if is_student and key == 'train.init_from':
      return _is_same_stage(old.get(key), new.get(key))
    return is_free(key)

  return {
    key: f'{key}: {old.get(key, "absent")} -> {new.get(key, "absent")}'
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not may_differ(key)
  }


def _is_same_stage(old: Any, new: Any) -> bool:
  """Returns whether absolute `old` and relative `new` lead to the same stage.

  A stage is one of the runs of a recipe. It stores the relative path of its
  initial weights, so that users can move the whole recipe. Earlier versions of
  this project stored an absolute path.
  """
  path = pathlib.PurePath(str(old))
  return path.is_absolute() and str(new) == beside(path)


def beside(stage: epath.PathLike) -> str:
  """Returns a stage's path, relative to another stage of the same recipe."""
  return f'../{pathlib.PurePath(stage).name}'
