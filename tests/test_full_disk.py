"""A run whose disk is full keeps what it has, and stops or goes on."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SIZES = ('model.depth=2', 'model.width=16', 'model.num_heads=2',
         'model.taps=(1,)', 'checkpoint.every_images=640',
         'log.preview_every_images=0')  # fmt: skip


@pytest.fixture
def disk(tmp_path):
  """A small file system."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', str(folder)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip('a small file system cannot be mounted here')
  yield folder
  subprocess.run(['umount', '-l', str(folder)], check=True)


def train(disk, *assignments):
  return subprocess.run(
    [
      sys.executable,
      'main.py',
      'train',
      f'--workdir={disk}/run',
      f'--config.data.dir={disk}/../data',
      *(f'--config.{text}' for text in (*SIZES, *assignments)),
    ],
    cwd=ROOT,
    env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
    timeout=240,
  )


def steps(disk):
  names = [path.name for path in (disk / 'run' / 'checkpoints').iterdir()]
  return sorted(int(name) for name in names if name.isdecimal())


@pytest.mark.slow
def test_a_full_disk(disk):
  assert train(disk, 'train.images=1280').returncode == 0
  # More steps in the same run: its config says so.
  config = disk / 'run' / 'config.json'
  text = re.sub(r'"images": 1280', '"images": 3200', config.read_text())
  config.write_text(text)
  before = steps(disk)
  free = os.statvfs(disk)
  ballast = disk / 'ballast'
  ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - 400_000))

  stopped = train(disk, 'train.images=3200')
  assert stopped.returncode == 1
  assert re.search(
    r'main.py: the checkpoint of step \d+ could not be written .*unsaved=true',
    stopped.stderr,
  )
  assert steps(disk) == before

  # What failed fills the disk to the last byte, for config.json too.
  for partial in (disk / 'run' / 'checkpoints').glob('*tmp*'):
    shutil.rmtree(partial)
  unsaved = train(disk, 'train.images=3200', 'checkpoint.continue_unsaved=true')
  assert unsaved.returncode == 1  # since the last one is missing too
  assert 'Training goes on' in unsaved.stderr
  assert 'step 50, the last one, could not be saved' in unsaved.stderr
  assert steps(disk) == before

  ballast.unlink()
  assert train(disk, 'train.images=3200').returncode == 0
  assert steps(disk)[-1] == 50
