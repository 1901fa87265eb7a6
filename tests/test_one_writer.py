"""Only one command at a time can write to a folder. A crash frees the lock."""

import contextlib
import os
import re
import shutil
import signal
import time

import command_runs
import numpy as np
import pytest
from command_runs import QUICK, run
from PIL import Image

from core.folder_lock import file_lock, folder_lock

LOCKS = {
  'train': 'run',
  'distill': 'run',
  'flash': 'run',
  'sample': 'samples',
  'compare': 'comparison',
  'sweep': 'sweep',
  'evaluate': 'evaluation',
  'report': 'report',
  'reference': 'new.npz',
  'train-features': 'new',
  'convert': 'new',
}


def lock_of(command, out):
  name = LOCKS[command]
  if name.startswith('new'):
    return file_lock(out / name, 'other', instead='')
  return folder_lock(out, name, 'other', instead='')


@pytest.mark.parametrize('command', LOCKS)
def test_a_second_command_is_refused_in_one_line(argv, tmp_path, command):
  out = tmp_path / 'out'
  with lock_of(command, out):
    before = sorted(out.iterdir())
    result = run(*argv(command, out))
    assert result.status == 2, result.err
    last = result.err.splitlines()[-1]
    assert re.fullmatch(
      rf'main\.py: {out}\S* is being written by `other` '
      rf'\(process {os.getpid()} on host \S+ since .* UTC\); '
      r'wait for it, stop it, or choose another --(out|to|workdir)\.',
      last,
    )
    assert sorted(out.iterdir()) == before


@pytest.mark.slow
def test_other_commands_write_beside_training(argv, shared_run, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(shared_run / 'run', workdir)
  with folder_lock(workdir, 'run', 'train', instead=''):
    for command in ('sample', 'sweep', 'evaluate', 'report'):
      words = [
        f'--workdir={workdir}' if word.startswith('--workdir') else word
        for word in argv(command, '')
        if not word.startswith('--out')
      ]
      result = run(*words)
      assert result.status == 0, result.err
  assert (workdir / 'report.html').exists()
  assert not [*workdir.rglob('.*')]


def test_prepare_goes_on_after_it_was_killed(tmp_path):
  """An unfinished temporary file does not stop the next `prepare`."""
  image = np.zeros((8, 8, 3), np.uint8)
  for k in range(2):
    folder = tmp_path / 'images' / f'class{k}'
    folder.mkdir(parents=True)
    Image.fromarray(image).save(folder / 'a.png')
  records = tmp_path / 'data' / 'mine' / 'train'
  records.mkdir(parents=True)
  (records / '.protocol.json.4711').write_text('{"half')
  words = ('prepare', f'--images={tmp_path}/images', '--config.data.name=mine',
           f'--config.data.dir={tmp_path}/data',
           '--image_size=8', '--batch_size=8',
           '--config.data.autoencoder=pixels')  # fmt: skip
  result = run(*words)
  assert result.status == 0, result.err
  assert not [*records.glob('.*')]
  with folder_lock(records, 'records', 'other', instead=''):
    assert 'is being written by `other`' in run(*words).err


@contextlib.contextmanager
def started(words, folder):
  """Starts a command; yields the process and the path of a file with stderr."""
  said = folder / f'stderr{len([*folder.iterdir()])}'
  with command_runs.started(words, said) as process:
    yield process, said


def finished(words, folder):
  """Runs a command; returns the exit status and the last line of stderr."""
  with started(words, folder) as (process, said):
    status = process.wait(timeout=400)
    return status, said.read_text().splitlines()[-1]


def wait_for(path, process, said):
  deadline = time.monotonic() + 300
  while not path.exists():
    assert process.poll() is None, said.read_text()
    assert time.monotonic() < deadline, said.read_text()
    time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize('command', ['train', 'distill', 'sweep', 'evaluate'])
def test_a_second_process_is_refused(argv, tmp_path, command):
  """A second process can start only after the first process has ended."""
  out, logs = tmp_path / 'out', tmp_path / 'logs'
  logs.mkdir()
  words = [*argv(command, out), '--config.log.preview_every_images=0']
  lock = out / f'.{LOCKS[command]}.lock'
  with started(words, logs) as (process, said):
    wait_for(lock, process, said)
    process.send_signal(signal.SIGSTOP)  # This pauses the first process.
    status, last = finished(words, logs)
    process.send_signal(signal.SIGCONT)
    assert status == 2, last
    assert f'is being written by `{command}` (process {process.pid}' in last
    assert process.wait(timeout=400) == 0, said.read_text()
  assert not lock.exists()

  shutil.rmtree(out)
  with started(words, logs) as (process, said):
    wait_for(lock, process, said)
    process.kill()
    process.wait()
  assert lock.exists()
  status, last = finished(words, logs)
  assert status == 0, last
  assert not [*out.rglob('.*')]


@pytest.mark.slow
def test_train_sample_and_report_side_by_side(argv, tmp_path):
  run_, logs = tmp_path / 'run', tmp_path / 'logs'
  logs.mkdir()
  long = ('--config.train.images=16000000', '--config.data.workers=2',
          '--config.log.preview_every_images=0',
          '--config.checkpoint.every_images=320')  # fmt: skip
  train = [*argv('train', run_), *long]
  with started(train, logs) as (process, said):
    wait_for(run_ / 'checkpoints' / '20', process, said)
    draw = ['sample', f'--workdir={run_}', *QUICK]
    with (
      started(draw, logs) as (sample, sample_said),
      started(['report', f'--workdir={run_}', '--no_draw'], logs) as (
        report,
        _,
      ),
    ):
      assert sample.wait(timeout=400) == 0, sample_said.read_text()
      assert report.wait(timeout=400) == 0
    assert process.poll() is None, said.read_text()
    assert finished(train, logs)[0] == 2
    process.kill()  # The data workers of this run end a moment later.
    process.wait()
    with folder_lock(run_, 'run', 'other', instead=''):
      pass
  assert (run_ / 'report.html').exists()
  assert [*run_.glob('samples/*/samples.npz')]
