"""Signals that ask a command to stop, and the answer that comes at once.

Python runs its handler of a signal only between two of its own instructions,
and a compilation is one for minutes. So that the user sees at once that the
signal was received, the C part of Python writes its number to a pipe, and a
thread reads it.
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
_GRACE = 2.0  # seconds in which Python can act on a second signal by itself
_RUN_STOPS = (
  'the run saves and stops after the step under way; a second signal stops it '
  'at once.'
)
# The work that other commands keep, if any.
_KEPT = {
  'prepare': 'finished files of records are kept',
  'sample': 'finished images are kept',
  'sweep': 'measured points are kept',
}


@dataclasses.dataclass
class StopRequest:
  """The name of the signal that asked to stop; empty until one has."""

  signal: str = ''

  def now(self) -> bool:
    """Returns whether to stop between steps; jobs stop all at one step."""
    return bool(self.signal) and not jax.distributed.is_initialized()

  def after(self, step: int) -> str:
    """Returns the signal to stop for after `step`, the same on all processes.

    Args:
      step: Number of steps taken.
    """
    if jax.distributed.is_initialized() and cluster.preempted(step):
      return 'SIGTERM'
    return self.signal


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Turns the first SIGTERM, SIGINT or SIGHUP into a request to stop.

  A line says so at once; a second signal has its usual effect. A SIGHUP that is
  ignored, as under nohup, stays ignored. Where processes form a job, JAX
  listens for SIGTERM, see `core.cluster`, and the other signals are passed on
  to it: all processes must stop at one step.
  """
  request, seen = StopRequest(), threading.Event()
  previous: dict[signal.Signals, Any] = {}

  def handle(number, frame):
    del frame
    seen.set()
    if job:
      signal.raise_signal(signal.SIGTERM)
    else:
      request.signal = signal.Signals(number).name
    for known, handler in previous.items():
      signal.signal(known, handler)

  job = jax.distributed.is_initialized()
  for number in _SIGNALS:
    ignored = signal.getsignal(number) == signal.SIG_IGN
    by_jax = job and number == signal.SIGTERM
    if not by_jax and not (ignored and number == signal.SIGHUP):
      previous[number] = signal.signal(number, handle)
  try:
    with _answers(previous, seen, _RUN_STOPS):
      yield request
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def end_on_sigterm(command: str) -> Iterator[None]:
  """Ends a command at SIGTERM, with a line and exit status 143.

  The line says at once what is kept. A run that trains takes the signal over;
  see `stop_on_signals`. Where processes form a job, JAX listens for it.

  Args:
    command: Name of the command.
  """
  if jax.distributed.is_initialized():
    yield
    return
  seen = threading.Event()

  def handle(number, frame):
    del frame
    seen.set()
    sys.exit(128 + number)  # files are closed and locks are released

  kept = _KEPT.get(command, 'nothing unfinished is kept')
  answer = f'stopped; {kept}; run the same command again to go on.'
  previous = signal.signal(signal.SIGTERM, handle)
  try:
    with _answers({signal.SIGTERM}, seen, answer):
      yield
  finally:
    signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _answers(
  numbers: Container[int], seen: threading.Event, first: str
) -> Iterator[None]:
  """Answers signals from a thread, also while Python runs no handler.

  Args:
    numbers: Signals to answer.
    seen: Event that is set once the handler of the first one has run.
    first: Answer to the first signal.
  """
  receiver, sender = os.pipe()
  os.set_blocking(sender, False)

  def answer() -> None:
    answered = False
    while number := os.read(receiver, 1)[0]:
      if number not in numbers:
        continue
      name = signal.Signals(number).name
      if not answered:
        answered = True
        logging.info('%s: %s', name, first)
      # Python acts on the second by itself, unless it has not seen the first.
      elif not seen.wait(_GRACE):
        logging.info('%s again: stopped at once.', name)
        os._exit(128 + number)

  before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
  thread = threading.Thread(target=answer, daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    seen.set()
    os.write(sender, b'\0')  # no signal: the thread ends
    thread.join()
    os.close(sender)
    os.close(receiver)
