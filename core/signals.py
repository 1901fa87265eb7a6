"""Handles signals that stop a command, and logs them immediately.

Python runs signal handlers only between bytecode instructions, so a handler can
wait minutes for a compilation. Python's C code, however, can immediately write
a signal's number to a pipe. A thread that reads the pipe logs a line.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Container, Iterator
from typing import Any

import jax
from absl import logging

from core import cluster

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# After a second signal, Python has this many seconds to handle the first one.
_GRACE = 2.0
_RUN_STOPS = (
  'the run saves and stops after the current step; a second signal stops it '
  'at once.'
)
# The work that each command keeps after a stop signal.
_KEPT = {
  'prepare': 'finished files of records are kept',
  'sample': 'finished images are kept',
  'sweep': 'measured points are kept',
}


@dataclasses.dataclass
class StopRequest:
  """A flag that requests a stop; `signal` is the signal's name, '' if unset."""

  signal: str = ''

  def now(self) -> bool:
    """Returns whether to stop now; always False in a multi-process job."""
    return bool(self.signal) and not jax.distributed.is_initialized()

  def after(self, step: int) -> str:
    """Returns the signal that ends all processes after `step`, or ''."""
    if jax.distributed.is_initialized() and cluster.preempted(step):
      return 'SIGTERM'
    return self.signal


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Turns the first SIGTERM, SIGINT or SIGHUP into a request to stop.

  A second signal has the usual effect. An ignored SIGHUP (nohup) stays ignored.
  In a multi-process job, JAX handles SIGTERM. This function forwards SIGINT and
  SIGHUP as SIGTERM, so all processes stop at the same step.
  """
  request, arrival = StopRequest(), threading.Event()
  previous: dict[signal.Signals, Any] = {}

  def handle(number, frame):
    del frame
    arrival.set()
    if job:
      signal.raise_signal(signal.SIGTERM)
    else:
      request.signal = signal.Signals(number).name
    for stop, handler in previous.items():
      signal.signal(stop, handler)

  job = jax.distributed.is_initialized()
  for number in _SIGNALS:
    is_ignored = signal.getsignal(number) == signal.SIG_IGN
    is_jax = job and number == signal.SIGTERM
    if not is_jax and not (is_ignored and number == signal.SIGHUP):
      previous[number] = signal.signal(number, handle)
  try:
    with _answer_signals(previous, arrival, _RUN_STOPS):
      yield request
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def end_on_sigterm(command: str) -> Iterator[None]:
  """Ends a command at SIGTERM with status 143, and logs the work that is kept.

  Training replaces this handler (`stop_on_signals`). In a multi-process job,
  JAX handles SIGTERM.
  """
  if jax.distributed.is_initialized():
    yield
    return
  arrival = threading.Event()

  def handle(number, frame):
    del frame
    arrival.set()
    sys.exit(128 + number)  # the exit closes files and releases locks

  result = _KEPT.get(command, 'nothing unfinished is kept')
  answer = f'stopped; {result}; run the same command again to continue.'
  previous = signal.signal(signal.SIGTERM, handle)
  try:
    with _answer_signals({signal.SIGTERM}, arrival, answer):
      yield
  finally:
    signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _answer_signals(
  numbers: Container[int], arrival: threading.Event, text: str
) -> Iterator[None]:
  """Logs `text` from a thread at the first signal in `numbers`.

  The Python handler of the first signal sets `arrival`.
  """
  receiver, sender = os.pipe()
  os.set_blocking(sender, False)

  def answer() -> None:
    is_answered = False
    while number := os.read(receiver, 1)[0]:
      if number not in numbers:
        continue
      name = signal.Signals(number).name
      if not is_answered:
        is_answered = True
        logging.info('%s: %s', name, text)
      # If Python has handled the first signal, it also handles the second one.
      elif not arrival.wait(_GRACE):
        logging.info('%s again: stopped at once.', name)
        os._exit(128 + number)

  previous = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
  thread = threading.Thread(target=answer, daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(previous)
    arrival.set()
    os.write(sender, b'\0')  # a zero byte ends the thread
    thread.join()
    os.close(sender)
    os.close(receiver)
