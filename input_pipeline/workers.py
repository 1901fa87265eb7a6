"""Elements made by other processes, in the order in which one would make them.

Each worker sends its elements through a pipe, and waits until they are taken.
A parent that ends, however it does, breaks the pipe, and with it the worker.

grain's `mp_prefetch` (0.2.18) gives the same elements in the same order, but
its workers outlive a parent that is killed, see docs/performance.md.
"""

import atexit
import contextlib
import itertools
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import grain
import jax

from core.errors import RunError, reason


class ReadError(RunError):
  """A process that reads data is gone."""


def read(
  dataset: grain.MapDataset, options: grain.ReadOptions, workers: int
) -> Iterator[Any]:
  """Yields the elements of an endless dataset; worker w of W makes every W-th.

  Args:
    dataset: whose parts can be pickled.
    options: threads and elements read ahead, of each worker.
    workers: W, at least 1.

  Raises:
    ReadError: if a worker was killed; else what was raised in one.
  """
  with contextlib.ExitStack() as stack:
    connections = [
      stack.enter_context(_worker(dataset[w::workers], options))
      for w in range(workers)
    ]
    for connection in itertools.cycle(connections):
      try:
        element = connection.recv()
      # A worker that dies ends the pipe between messages or within one.
      except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise ReadError(
          'a process that reads data was killed; is there memory for '
          f'data.workers={workers}?'
        ) from error
      if isinstance(element, Exception):
        raise element
      yield element


@contextlib.contextmanager
def _worker(
  dataset: grain.MapDataset, options: grain.ReadOptions
) -> Iterator[Connection]:
  """Starts a worker; it is killed at the end, for it holds nothing."""
  # Not a fork, which the threads of jax do not survive.
  context = multiprocessing.get_context('spawn')
  here, there = context.Pipe(duplex=False)
  process = context.Process(target=_work, args=(dataset, options, there))
  # The parent decides when to end: a signal to all must not end the workers
  # while it still saves. They inherit what is blocked here.
  resource_tracker.ensure_running()  # starting it would unblock them
  before = signal.pthread_sigmask(
    signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
  )
  try:
    process.start()
  except OSError as error:  # no process to be had, or it is dead already
    raise ReadError(
      f'a process that reads data could not start ({error.strerror}); is there '
      'memory for data.workers?'
    ) from error
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
  there.close()  # so that the worker has the only one
  atexit.register(process.kill)  # else an exit would wait for it
  try:
    yield here
  finally:
    process.kill()
    process.join()
    atexit.unregister(process.kill)
    here.close()


def _work(
  dataset: grain.MapDataset, options: grain.ReadOptions, connection: Connection
) -> None:
  jax.config.update('jax_platforms', 'cpu')  # the devices are the parent's
  with contextlib.suppress(BrokenPipeError):
    try:
      for element in dataset.to_iter_dataset(options):
        connection.send(element)
    except BrokenPipeError:
      raise
    except Exception as error:
      error.add_note(traceback.format_exc())
      connection.send(_portable(error))


def _portable(error: Exception) -> Exception:
  """Returns the error, or a ReadError with its text if it cannot be pickled."""
  try:
    pickle.loads(pickle.dumps(error))
  except Exception as problem:  # whatever the error's class raises
    portable = ReadError(f'a process that reads data failed ({reason(error)}).')
    for note in (*error.__notes__, f'It cannot be pickled: {problem!r}.'):
      portable.add_note(note)
    return portable
  return error
