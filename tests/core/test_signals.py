import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from absl import logging
from command_runs import ROOT

from core.signals import stop_on_signals

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def handlers():
  return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def usual_handlers(monkeypatch):
  """Sets the default signal handlers, because nohup changes the handlers."""
  before = handlers()
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  for number, handler in zip(SIGNALS, before, strict=True):
    signal.signal(number, handler)


@pytest.fixture
def logged(monkeypatch):
  lines = []

  def info(text, *args):
    lines.append((time.monotonic(), text % args))

  monkeypatch.setattr(logging, 'info', info)
  return lines


@pytest.mark.parametrize('number', SIGNALS)
def test_first_signal_is_a_request(number):
  before = handlers()
  with stop_on_signals() as stop:
    assert stop.signal == ''
    os.kill(os.getpid(), number)
    assert stop.signal == number.name
    assert handlers() == before  # The next signal gets the usual handler.
  assert handlers() == before


def test_second_ctrl_c_interrupts():
  before = handlers()
  with stop_on_signals() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == 'SIGINT'
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert handlers() == before


def test_ignored_hangup_stays_ignored():
  """A process under nohup must keep running when its terminal closes."""
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  with stop_on_signals() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.signal == ''
  assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_signal_is_answered_while_python_is_busy_elsewhere(logged):
  with stop_on_signals() as stop:
    sender = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    sender.start()
    # For about a second, this call keeps Python from running a signal handler.
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000)
    end = time.monotonic()
    sender.join()
  assert stop.signal == 'SIGINT'
  ((when, line),) = logged
  expected = 'SIGINT: the run saves and stops after the current step'
  assert line.startswith(expected)
  assert when < end - 0.1


def test_wakeup_is_given_back():
  receiver, sender = os.pipe()
  os.set_blocking(sender, False)
  before = signal.set_wakeup_fd(sender)
  threads = threading.active_count()
  try:
    with stop_on_signals():
      assert threading.active_count() == threads + 1
    assert signal.set_wakeup_fd(before) == sender
  finally:
    os.close(receiver)
    os.close(sender)
  assert threading.active_count() == threads


def test_second_signal_stops_a_process_that_is_busy_elsewhere():
  program = (
    'import hashlib\n'
    'from absl import logging\n'
    'from core import signals\n'
    'logging.use_absl_handler()\n'
    'logging.set_verbosity(logging.INFO)\n'
    'signals._GRACE = 0.1\n'
    'with signals.stop_on_signals():\n'
    '  print(1, flush=True)\n'
    "  hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
  )
  with subprocess.Popen(
    [sys.executable, '-c', program], cwd=ROOT, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  ) as process:  # fmt: skip
    try:
      process.stdout.readline()
      time.sleep(0.5)  # The child process is now in pbkdf2_hmac.
      process.send_signal(signal.SIGTERM)
      answer = 'a second signal stops it at once'
      assert any(answer in line for line in process.stderr)
      process.send_signal(signal.SIGTERM)
      assert process.wait(timeout=60) == 128 + signal.SIGTERM
      assert 'SIGTERM again: stopped at once' in process.stderr.read()
    finally:
      process.kill()
