"""Reads data in worker processes, in the order of a single process.

A worker sends elements through a pipe, and waits while the pipe is full. When
the parent ends for any reason, the pipe breaks and the worker ends.

grain's `mp_prefetch` (0.2.18) yields the same order, but grain's workers
outlive a killed parent; see docs/performance.md.
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
  """A worker process that reads data has failed."""


def read(
  dataset: grain.MapDataset, options: grain.ReadOptions, workers: int
) -> Iterator[Any]:
  """Yields the elements of an endless dataset, read by several workers.

  Args:
    dataset: Dataset that can be pickled.
    options: Numbers of threads and of prefetched elements for each worker.
    workers: Number W >= 1 of workers; worker w reads elements w, w + W, ...

  Raises:
    ReadError: if a worker was killed. The parent also raises the exceptions of
      workers.
  """
  with contextlib.ExitStack() as stack:
    connections = [
      stack.enter_context(_worker(dataset[w::workers], options))
      for w in range(workers)
    ]
    for connection in itertools.cycle(connections):
      try:
        element = connection.recv()
      # If a worker dies, the pipe ends, possibly in the middle of a message.
      except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise ReadError(
          'a process that reads data was killed; is there enough memory for '
          f'data.workers={workers}?'
        ) from error
      if isinstance(element, Exception):
        raise element
      yield element


@contextlib.contextmanager
def _worker(
  dataset: grain.MapDataset, options: grain.ReadOptions
) -> Iterator[Connection]:
  """Starts a worker, and kills the worker at the end of the `with` block."""
  # JAX's threads do not survive a fork.
  context = multiprocessing.get_context('spawn')
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(target=_work, args=(dataset, options, sender))
  # Workers inherit blocked signals, so a stop signal to all processes does not
  # end workers while the parent saves a checkpoint.
  resource_tracker.ensure_running()  # a later start would unblock signals
  mask = signal.pthread_sigmask(
    signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
  )
  try:
    process.start()
  except OSError as error:  # too many processes, or the worker has died
    raise ReadError(
      f'a process that reads data could not start ({error.strerror}); is there '
      'enough memory for data.workers?'
    ) from error
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
  sender.close()  # the worker must have the only open sender
  atexit.register(process.kill)  # an exit must not wait for the worker
  try:
    yield receiver
  finally:
    process.kill()
    process.join()
    atexit.unregister(process.kill)
    receiver.close()


def _work(
  dataset: grain.MapDataset, options: grain.ReadOptions, connection: Connection
) -> None:
  jax.config.update('jax_platforms', 'cpu')  # the parent uses the accelerators
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
  """Returns the error, or a ReadError with the same text if pickling fails."""
  try:
    pickle.loads(pickle.dumps(error))
  except Exception as problem:  # pickling can raise any exception
    portable = ReadError(f'a process that reads data failed ({reason(error)}).')
    for note in (*error.__notes__, f'It cannot be pickled: {problem!r}.'):
      portable.add_note(note)
    return portable
  return error
