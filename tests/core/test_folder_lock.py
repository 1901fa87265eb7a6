"""A kernel lock or a marker file limits each folder to one writer."""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from absl import logging
from command_runs import ROOT
from etils import epath
from etils.epath import backend, gpath
from refusals import refused

from core import folder_lock as lib
from core.errors import WriteError

HOLDER = """
import errno, fcntl, os, subprocess, sys, time
from core import folder_lock
def no_locks(*args):
  raise OSError(errno.ENOLCK, 'No locks available')
if 'marker' in sys.argv:
  fcntl.flock = no_locks
  folder_lock.REFRESH_SECONDS = 0.05
  folder_lock._SETTLE_SECONDS = 0.01
with folder_lock.folder_lock(sys.argv[1], 'run', 'train', instead=''):
  child = 0
  if 'fork' in sys.argv:
    child = os.fork()
    if not child:
      time.sleep(60)
      os._exit(0)
  if 'start' in sys.argv:
    child = subprocess.Popen(['sleep', '60']).pid
  print(child, flush=True)
  time.sleep(60)
"""


def lock(folder, name='run', command='train', **kwargs):
  how = {'instead': 'choose another --workdir'} | kwargs
  return lib.folder_lock(folder, name, command, **how)


def refusal(folder, *args, **kwargs):
  with refused() as error, lock(folder, *args, **kwargs):
    raise AssertionError('the lock was given twice')
  return str(error.value)


@contextlib.contextmanager
def holder(folder, *words):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(folder), *words], cwd=ROOT,
    stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  with process.stdout:
    child = int(process.stdout.readline())
    try:
      yield process, child
    finally:
      process.kill()
      process.wait()
      if child:
        os.kill(child, signal.SIGKILL)


@pytest.fixture
def no_kernel_locks(monkeypatch):
  """Simulates a file system without kernel locks, and shortens timeouts."""

  def flock(descriptor, operation):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', flock)
  quickly(monkeypatch)


def quickly(monkeypatch):
  monkeypatch.setattr(lib, 'REFRESH_SECONDS', 0.05)
  monkeypatch.setattr(lib, 'STALE_REFRESHES', 10)
  monkeypatch.setattr(lib, '_SETTLE_SECONDS', 0.01)


def test_a_second_writer_is_told_who_writes(tmp_path):
  with lock(tmp_path):
    assert re.fullmatch(
      rf'{tmp_path} is being written by `train` \(process {os.getpid()} on '
      r'host \S+ since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\); wait for it, stop '
      r'it, or choose another --workdir\.',
      refusal(tmp_path, command='distill'),
    )
  with lock(tmp_path):
    pass


@pytest.mark.parametrize('text', ['', '[]', '{"since": 1e300}', '{"pid": 3}'])
def test_a_damaged_lock_file_hides_its_holder_only(tmp_path, text):
  with lock(tmp_path):
    (tmp_path / '.run.lock').write_text(text)
    assert 'is being written by another command;' in refusal(tmp_path)


def test_what_others_write_is_free(tmp_path):
  with lock(tmp_path), lock(tmp_path, 'sweep', 'sweep'), lock(tmp_path / 'a'):
    assert '`sweep`' in refusal(tmp_path, 'sweep', 'sweep')
  with lib.file_lock(tmp_path / 'x', 'convert', instead='choose another --to'):
    with lib.file_lock(tmp_path / 'y', 'convert', instead=''):
      pass
    with refused(f'{tmp_path}/x is being written'):
      with lib.file_lock(tmp_path / 'x', 'convert', instead=''):
        pass


def test_nothing_stays_of_a_lock(tmp_path):
  with lock(tmp_path / 'a' / 'b') as folder:
    assert folder.is_dir()
  assert not [*tmp_path.iterdir()]
  with lock(tmp_path / 'a' / 'b') as folder:
    (folder / 'result').touch()
  assert [*folder.iterdir()] == [folder / 'result']


def test_a_folder_that_is_removed_meanwhile_is_no_error(tmp_path):
  with lock(tmp_path / 'a') as folder:
    folder.rmtree()


@pytest.mark.parametrize('child', ['fork', 'start'])
def test_killing_the_holder_frees_the_folder(tmp_path, child):
  with holder(tmp_path, child) as (process, survivor):
    assert f'process {process.pid}' in refusal(tmp_path)
    process.kill()
    process.wait()
    with lock(tmp_path):
      os.kill(survivor, 0)  # The child process must still run.


def test_only_leftovers_of_what_is_written_are_removed(tmp_path):
  ours = ['.report.html.17', 'parts/.3.npz.5', '.net.4']
  others = ['.report.html', '.report.html.old', '.notes.17', 'report.html.17',
            'parts/3.npz', '.3.npz.5', '.net.d/x']  # fmt: skip
  for name in (*ours, *others):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / '.net.5').mkdir()
  (tmp_path / '.net.5' / 'half').touch()
  with lock(tmp_path, writes=('report.html', 'parts/*.npz', 'gone/*', 'net')):
    pass
  left = {path for path in tmp_path.rglob('*') if path.is_file()}
  assert left == {tmp_path / name for name in others}


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
  (tmp_path / 'file').touch()
  said = refusal(tmp_path / 'file' / 'out')
  assert 'cannot be written (Not a directory); choose another' in said


def test_a_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
  write = os.write

  def full(descriptor, data):
    if len(data) > 1000:  # A short text may fit on a full disk.
      raise OSError(errno.ENOSPC, 'No space left on device')
    return write(descriptor, data)

  monkeypatch.setattr(os, 'write', full)
  with pytest.raises(WriteError, match=r'No space left.*make room'):
    with lock(tmp_path / 'a'):
      pass
  monkeypatch.undo()
  assert not [*tmp_path.iterdir()]


def test_a_marker_stands_in_for_a_lock(tmp_path, no_kernel_locks):
  with lock(tmp_path):
    time.sleep(0.7)  # Without a refresh, a marker expires after 0.5 s.
    assert f'`train` (process {os.getpid()}' in refusal(tmp_path)
  assert not [*tmp_path.iterdir()]


def test_a_stale_marker_is_taken_over(tmp_path, no_kernel_locks, monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'warning', lambda *args: said.append(args))
  with holder(tmp_path, 'marker') as (process, _):
    assert f'process {process.pid}' in refusal(tmp_path)
  assert f'process {process.pid}' in refusal(tmp_path)  # not expired yet
  time.sleep(0.6)
  with lock(tmp_path):
    pass
  (said,) = said
  assert f'process {process.pid}' in said[0] % said[1:]


def test_a_marker_that_is_lost_ends_the_writer(
  tmp_path, no_kernel_locks, monkeypatch
):
  said = []
  monkeypatch.setattr(lib, '_give_way', said.append)
  with lock(tmp_path):
    marker = tmp_path / '.run.lock'
    about = json.loads(marker.read_text())
    monkeypatch.setattr(lib, '_refresh', lambda *args: None)
    marker.write_text(json.dumps(about | {'token': 'another', 'pid': 4711}))
    time.sleep(0.3)
  assert 'was taken over by `train` (process 4711' in said[0]
  assert marker.exists()  # The marker belongs to process 4711.


def test_of_two_that_write_markers_at_once_one_stays(
  tmp_path, no_kernel_locks, monkeypatch
):
  refresh = lib._refresh

  def both(path, owner):
    refresh(path, owner)
    refresh(path, lib._Owner('sweep', 'elsewhere', 4711, 0.0, 'another'))

  monkeypatch.setattr(lib, '_refresh', both)
  assert '`sweep` (process 4711 on host elsewhere' in refusal(tmp_path)


class Bucket:
  """Simulates an object store: maps gs:// to a local folder."""

  def __init__(self, folder):
    self._folder = str(folder)

  def __getattr__(self, name):
    method = getattr(backend.os_backend, name)

    def call(*args, **kwargs):
      args = (str(a).replace('gs:/', self._folder) for a in args)
      return method(*args, **kwargs)

    return call


def test_object_stores_have_markers(tmp_path, monkeypatch):
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, 'gs', Bucket(tmp_path))
  monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
  quickly(monkeypatch)
  run = epath.Path('gs://bucket/run')
  with lock(run, writes=('report.html',)) as folder:
    assert os.fspath(folder) == 'gs://bucket/run'
    assert 'gs://bucket/run is being written by `train`' in refusal(run)
    (tmp_path / 'bucket/run/.report.html.3').touch()
  with lock(run, writes=('report.html',)):
    names = [path.name for path in (tmp_path / 'bucket/run').iterdir()]
    assert names == ['.run.lock']
