"""Locks that give each set of files one writer at a time.

Each lock protects a set of files. A command is refused while another command
holds the same lock. Commands with different locks can write to one workdir at
the same time. The locks, commands and files are:

  run          train, distill: config.json, checkpoints, metrics, previews
  samples      sample: samples.*, parts, images, labels.txt
  comparison   compare: compare.json, table.md and pictures
  sweep        sweep: sweep.json, sweep.csv, sweep.png
  evaluation   evaluate: evaluation*.json, evaluation*.md
  report       report: report.html
  records      prepare: the records of one split
  NAME         convert, reference, train-features: the file or folder NAME
               (its parent folder contains the lock file)

Reading needs no lock. FOLDER/.NAME.lock identifies the holder. On most file
systems, the kernel locks this file until the holder's process ends. On other
storage (gs://, some network file systems), the file is a marker that the holder
refreshes every REFRESH_SECONDS. Another command may take over the lock after
STALE_REFRESHES missed refreshes. Hosts' clocks must agree to about a minute.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import glob
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from etils import epath

from core import program
from core.errors import InputError, WriteError
from core.files import (
  is_full,
  read_json,
  remove_leftovers,
  replacing,
  write_error,
)

REFRESH_SECONDS = 30.0
STALE_REFRESHES = 10
# Two commands that find no marker both write a marker. After this time, both
# commands read the file again. The command with the earlier marker is refused.
_SETTLE_SECONDS = 1.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# Bytes written to test for free space; a full disk still accepts empty files.
_ROOM = 2**16
_LONGEST = 200  # characters of NAME in a lock's file name


@dataclasses.dataclass(frozen=True)
class _Owner:
  command: str
  host: str
  pid: int
  since: float
  token: str

  @classmethod
  def here(cls, command: str) -> '_Owner':
    return cls(
      command, socket.gethostname(), os.getpid(), time.time(), uuid.uuid4().hex
    )

  @classmethod
  def read(cls, path: epath.Path) -> tuple['_Owner | None', float]:
    """Returns the owner that a lock file names, and the last refresh time."""
    try:
      fields = read_json(path)
      refresh = float(fields.pop('refreshed', 0))
      for seconds in (refresh, fields['since']):
        _clock(seconds)  # raises ValueError for an invalid time
      return cls(**fields), refresh
    except (ValueError, TypeError, LookupError, OverflowError, OSError):
      return None, 0.0  # the file was removed or is still empty

  def text(self) -> str:
    fields: dict[str, Any] = dataclasses.asdict(self)
    return json.dumps({**fields, 'refreshed': time.time()}) + '\n'

  def __str__(self) -> str:
    return (
      f'`{self.command}` (process {self.pid} on host {self.host} since '
      f'{_clock(self.since)})'
    )


@contextlib.contextmanager
def folder_lock(
  folder: epath.PathLike,
  name: str,
  command: str,
  *,
  instead: str,
  writes: Sequence[str] = (),
  subject: epath.PathLike | None = None,
) -> Iterator[epath.Path]:
  """Creates and yields a folder that is locked within the block.

  The function first checks for free space and removes partial files of killed
  commands. At the end, it removes a new folder that is still empty.

  Args:
    folder: Folder to write to, local or gs://.
    name: Name of the lock, from the list in the module docstring.
    command: Command that takes the lock, such as 'train'.
    instead: Advice for a refused command, such as 'choose another --out'.
    writes: Patterns of the protected files. Matching partial files are removed.
    subject: Path shown in messages; None for the folder.

  Raises:
    InputError: if another command holds the lock, or files cannot be written.
    WriteError: if the disk is full.
  """
  folder = epath.Path(folder).expanduser()
  subject = os.fspath(subject or folder)
  owner = _Owner.here(command)
  with contextlib.ExitStack() as stack:
    try:
      stack.callback(_remove_empty, _missing_folders(folder))
      folder.mkdir(parents=True, exist_ok=True)
      path = folder / f'.{name[:_LONGEST]}.lock'
      stack.enter_context(_hold(path, owner, subject, instead))
      remove_leftovers(folder, (*writes, glob.escape(path.name)))
    except OSError as error:
      if is_full(error):
        raise write_error(subject, error) from error
      raise InputError(
        f'{subject} cannot be written ({error.strerror or error}); {instead}.'
      ) from error
    yield folder


@contextlib.contextmanager
def file_lock(
  path: epath.PathLike, command: str, *, instead: str
) -> Iterator[None]:
  """Holds the lock of one new file or folder; see `folder_lock`."""
  path = epath.Path(path).expanduser().absolute()
  with folder_lock(
    path.parent,
    path.name,
    command,
    instead=instead,
    writes=(glob.escape(path.name),),
    subject=path,
  ):
    yield


@contextlib.contextmanager
def _hold(
  path: epath.Path, owner: _Owner, subject: str, advice: str
) -> Iterator[None]:
  """Holds a kernel lock, or a marker if the storage has no kernel locks."""
  is_local = '://' not in os.fspath(path)
  descriptor = _lock(path, subject, advice) if is_local else None
  if descriptor is None:
    with _marker(path, owner, subject, advice):
      yield
    return
  descriptors = [descriptor]

  def release() -> None:
    while descriptors:
      os.close(descriptors.pop())

  # Each forked child calls `release`, since a child that outlives this process
  # would otherwise keep the lock.
  os.register_at_fork(after_in_child=release)
  try:
    _write(descriptor, owner.text())
    yield
  finally:
    if os.getpid() == owner.pid:
      # The lock is still held, so no other process can own the file yet.
      with contextlib.suppress(OSError):  # the folder may have been removed
        path.unlink()
      release()


def _lock(path: epath.Path, subject: str, advice: str) -> int | None:
  """Returns the descriptor of a kernel lock; None if locks are unsupported."""
  while True:
    # Child programs do not inherit the descriptor.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if os.path.samestat(os.fstat(descriptor), os.stat(path)):
        return descriptor
    except BlockingIOError:
      os.close(descriptor)
      raise _refusal(_Owner.read(path)[0], subject, advice) from None
    except FileNotFoundError:
      pass
    except OSError as error:
      os.close(descriptor)
      if error.errno in _NO_LOCKS:
        return None
      raise
    os.close(descriptor)  # the previous holder has just removed the file


def _write(descriptor: int, text: str) -> None:
  """Writes a lock file; first writes _ROOM bytes to test for free space."""
  data = memoryview(text.encode().ljust(_ROOM))
  while data:
    data = data[os.write(descriptor, data) :]
  os.fsync(descriptor)
  os.ftruncate(descriptor, len(text.encode()))


@contextlib.contextmanager
def _marker(
  path: epath.Path, owner: _Owner, subject: str, advice: str
) -> Iterator[None]:
  """Holds a marker file, which a thread refreshes."""
  rival, refresh = _Owner.read(path)
  if rival:
    if time.time() - refresh < REFRESH_SECONDS * STALE_REFRESHES:
      raise _refusal(rival, subject, advice)
    logging.warning(
      '%s: took over the lock of %s, which was last refreshed at %s.',
      subject, rival, _clock(refresh),
    )  # fmt: skip
  _refresh(path, owner)
  time.sleep(_SETTLE_SECONDS)
  rival, _ = _Owner.read(path)
  if rival != owner:
    raise _refusal(rival, subject, advice)
  stop = threading.Event()
  thread = threading.Thread(
    target=_keep_marker, args=(path, owner, subject, stop), daemon=True
  )
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()
    if _Owner.read(path)[0] == owner:
      with contextlib.suppress(OSError):
        path.unlink()


def _keep_marker(
  path: epath.Path, owner: _Owner, subject: str, stop: threading.Event
) -> None:
  """Refreshes a marker until `stop`; exits if another command has the lock."""
  while not stop.wait(REFRESH_SECONDS):
    rival, _ = _Owner.read(path)
    if rival and rival != owner:
      _give_way(
        f'{subject} was taken over by {rival} while this command was suspended.'
      )
    try:
      _refresh(path, owner)
    except (OSError, WriteError) as error:
      logging.warning('%s could not be refreshed: %s', path, error)


def _give_way(message: str) -> None:
  """Exits immediately, since the folder has a new writer."""
  print(f'{program.name()}: {message}', file=sys.stderr, flush=True)
  os._exit(1)


def _refresh(path: epath.Path, owner: _Owner) -> None:
  if '://' in os.fspath(path):
    path.write_text(owner.text())  # object stores write atomically
    return
  with replacing(path) as temp_path:
    temp_path.write_text(owner.text())


def _refusal(owner: _Owner | None, subject: str, advice: str) -> InputError:
  return InputError(
    f'{subject} is being written by {owner or "another command"}; wait for it, '
    f'stop it, or {advice}.'
  )


def _clock(seconds: float) -> str:
  moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
  return f'{moment:%Y-%m-%d %H:%M:%S} UTC'


def _missing_folders(folder: epath.Path) -> list[epath.Path]:
  """Returns the missing folders of a path, starting with the deepest."""
  if '://' in os.fspath(folder):
    return []
  return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: Sequence[epath.Path]) -> None:
  for folder in folders:
    with contextlib.suppress(OSError):  # the folder is missing or not empty
      os.rmdir(folder)  # epath's rmdir would raise ValueError
