"""On a full disk, commands fail with a one-line message and keep results."""

import os
import re
import subprocess
import sys

import pytest
from command_runs import ROOT, run

from commands import evaluate
from evaluate import compare
from sample.image_folder import ImageFolder

SIZES = ('model.depth=2', 'model.width=16', 'model.num_heads=2',
         'model.taps=(1,)', 'checkpoint.every_images=640',
         'log.preview_every_images=0')  # fmt: skip


@pytest.fixture
def disk(tmp_path):
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
  # The stored config is edited to request 3,200 images.
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
    r'main.py: the checkpoint of step \d+ could not be written .*Make room',
    stopped.stderr,
  )
  assert steps(disk) == before

  ballast.unlink()
  assert train(disk, 'train.images=3200').returncode == 0
  assert steps(disk)[-1] == 50


def fill(disk, leave=0):
  free = os.statvfs(disk)
  size = free.f_bavail * free.f_frsize - leave
  (disk / 'ballast').write_bytes(bytes(size))


def failed(words):
  """Checks that a command reports a full disk; returns status and output."""
  result = run(*words)
  assert result.status == 1, result.err
  assert 'Traceback' not in result.err
  last = result.err.splitlines()[-1]
  assert last.startswith('main.py: ')
  assert 'No space left on device' in last and 'make room' in last
  return result


@pytest.mark.parametrize(
  'command', ['train', 'distill', 'sample', 'compare', 'sweep', 'evaluate',
              'report', 'reference', 'train-features', 'convert']
)  # fmt: skip
def test_a_full_disk_is_said_before_the_work(disk, argv, command):
  (disk / 'out').mkdir()
  fill(disk)
  failed(argv(command, disk / 'out'))
  assert not [*(disk / 'out').iterdir()]


@pytest.mark.parametrize(
  'command',
  ['convert', pytest.param('train-features', marks=pytest.mark.slow)],
)
def test_weights_that_do_not_fit_leave_nothing(disk, argv, command):
  (disk / 'out').mkdir()
  fill(disk, leave=80_000)
  failed(argv(command, disk / 'out'))
  assert not [*(disk / 'out').iterdir()]


@pytest.mark.parametrize('moment', ['_write_protocol', 'add', 'finish'])
def test_samples_go_on_where_the_disk_was_full(disk, argv, monkeypatch, moment):
  whole = getattr(ImageFolder, moment)

  def full(*args, **kwargs):
    if not (disk / 'ballast').exists():
      fill(disk)
    whole(*args, **kwargs)

  monkeypatch.setattr(ImageFolder, moment, full)
  failed(argv('sample', disk / 'out'))
  monkeypatch.undo()
  (disk / 'ballast').unlink()
  result = run(*argv('sample', disk / 'out'))
  assert result.status == 0, result.err
  assert '20 images' in result.err
  assert not [*(disk / 'out').rglob('.*')]


def test_figures_that_cannot_be_written_are_printed(disk, argv, monkeypatch):
  name_of = evaluate._free_name

  def full(*args):
    fill(disk)
    return name_of(*args)

  monkeypatch.setattr(evaluate, '_free_name', full)
  result = failed(argv('evaluate', disk / 'out'))
  assert 'FD (mine:moments)' in result.out and '20 images' in result.out


@pytest.mark.slow
def test_a_comparison_that_cannot_be_written_is_logged(
  disk, argv, features, monkeypatch
):
  draw = compare.draw_comparison

  def full(*args, **kwargs):
    fill(disk)
    return draw(*args, **kwargs)

  monkeypatch.setattr(compare, 'draw_comparison', full)
  assert (
    '| IG | 1.5 |' in failed([*argv('compare', disk / 'out'), features]).err
  )
