"""Processes that work in step: all go on, or all end with the reason.

Alone, an error on one process would leave the others waiting for it: jax ends
them after five minutes, or 100 seconds for one that was killed, by aborting.
"""

import contextlib
import glob
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from core.errors import PrepareError
from core.folder_lock import folder_lock

_REASON = 1000  # bytes of an error's text that the others are told


@contextlib.contextmanager
def together() -> Iterator[None]:
  """All processes leave the block, or all raise.

  Each waits at the end for the others, so all must come to it equally often.

  Raises:
    PrepareError: with the reason, where the block failed on another process.
  """
  if jax.process_count() == 1:
    yield
    return
  error, reason = None, np.zeros(_REASON, np.uint8)
  try:
    yield
  except Exception as caught:
    error = caught
    text = (str(error) or type(error).__name__).encode()[:_REASON]
    reason[: len(text)] = list(text)
  reasons = multihost_utils.process_allgather(reason)
  if error is not None:
    raise error
  for process, reason in enumerate(reasons):
    if reason.any():
      text = reason.tobytes().rstrip(b'\0').decode(errors='replace')
      raise PrepareError(f'process {process} failed: {text}')


@contextlib.contextmanager
def writing(
  folder: epath.PathLike,
  name: str,
  command: str,
  *,
  writes: Sequence[str],
  instead: str = 'choose another --out',
) -> Iterator[epath.Path]:
  """Holds a lock on the first process of a job, which is the one that writes.

  Args:
    folder: Folder for the results; it is created.
    name: Name of the lock; see `core.folder_lock`.
    command: Command that writes.
    writes: Patterns of the files that it writes.
    instead: Advice for a command that is refused.

  Yields:
    The folder.

  Raises:
    InputError, WriteError: as `folder_lock`, on the first process.
    PrepareError: with the same reason, on the others.
  """
  with contextlib.ExitStack() as stack:
    with together():
      if jax.process_index() == 0:
        stack.enter_context(
          folder_lock(folder, name, command, writes=writes, instead=instead)
        )
    yield epath.Path(folder).expanduser()


@contextlib.contextmanager
def writing_target(target: epath.Path, command: str) -> Iterator[None]:
  """Holds the lock of one new file or folder, as `writing` does."""
  with writing(
    target.parent,
    target.name,
    command,
    writes=(glob.escape(target.name),),
    instead='choose another --to',
  ):
    yield


def everywhere(*numbers: int) -> np.ndarray:
  """The numbers of each process, (processes, numbers)."""
  if jax.process_count() == 1:
    return np.asarray([numbers])
  return multihost_utils.process_allgather(np.asarray(numbers))


def print_once(text: str) -> None:
  """Prints a text on the first process of a job."""
  if jax.process_index() == 0:
    print(text)
