"""Makes processes fail together: an error on one process is raised on all.

Without this module, the other processes would wait until JAX aborts them, five
minutes after an error or 100 seconds after a process was killed.
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

_REASON = 1000  # bytes of the error message that each process sends


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Runs a block; raises on all processes if the block fails on one process.

  The processes wait for each other at the end of the block. Therefore, all
  processes must enter the block the same number of times.

  Raises:
    PrepareError: if the block failed on another process, whose error it quotes.
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
  """Holds `folder_lock` on the first process, the only process that writes.

  Args:
    folder: Folder for the results, which this function creates and yields.
    name: Name of the lock; see `core.folder_lock`.
    command: Command that writes, such as 'train'.
    writes: Patterns of the files that the command writes.
    instead: Advice for a refused command.

  Raises:
    InputError, WriteError: Raised by `folder_lock` on the first process.
    PrepareError: Raised for the same reason on the other processes.
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
  """Holds the lock of one new file or folder; see `writing`."""
  with writing(
    target.parent,
    target.name,
    command,
    writes=(glob.escape(target.name),),
    instead='choose another --to',
  ):
    yield


def everywhere(*numbers: int) -> np.ndarray:
  """Gathers integers from all processes; returns shape (processes, numbers)."""
  if jax.process_count() == 1:
    return np.asarray([numbers])
  return multihost_utils.process_allgather(np.asarray(numbers))


def print_once(text: str) -> None:
  """Prints a text on the first process only."""
  if jax.process_index() == 0:
    print(text)
