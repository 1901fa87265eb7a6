"""Bars on a terminal and lines elsewhere, with a simulated clock."""

import contextlib
import os
import pty
import re
import termios
import time

import pytest
import tqdm.std

from core.progress import image_progress


class Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(time, 'monotonic', clock)
  monkeypatch.setattr(tqdm.std, 'time', clock)
  monkeypatch.setattr(tqdm.std.tqdm, 'monitor_interval', 0)  # no thread
  return clock


@pytest.fixture
def log(caplog):
  caplog.set_level('INFO', 'absl')
  return caplog


@contextlib.contextmanager
def terminal():
  """Makes stderr a terminal; yields a function that reads new text."""
  reader, writer = pty.openpty()
  termios.tcsetwinsize(writer, (25, 100))
  os.set_blocking(reader, False)
  with open(writer, 'w') as stderr, contextlib.redirect_stderr(stderr):

    def read():
      text = ''
      with contextlib.suppress(BlockingIOError):  # no more text
        while True:
          text += os.read(reader, 2**16).decode()
      return text

    yield read
  os.close(reader)


def take_batches(clock, update, *batches):
  """Finishes batches after the given numbers of seconds."""
  for seconds, done in batches:
    clock.now += seconds
    update(done)


def test_lines_tell_the_rate_without_the_first_batch(clock, log):
  with image_progress(1000, 100, 'sample') as update:
    # The first batch takes 90 s, mostly for compilation.
    take_batches(clock, update, (90, 200), (20, 300), (20, 400))
    # The next batch compiles another program, which the line after it forgets.
    take_batches(clock, update, (120, 500), (40, 700), (60, 1000))
  assert log.messages == [
    'sample: 900 images; compiling first if the program is new.',
    '200 of 1000 images; the first batch took 90 s.',
    '400 of 1000 images, 5 images/s, 2 min left.',
    '500 of 1000 images, 0.833 images/s, 10 min left.',
    '700 of 1000 images, 5 images/s, 1 min left.',
  ]


def test_a_quick_first_batch_needs_no_line(clock, log):
  with image_progress(100, 0, 'prepare', compiles=False) as update:
    take_batches(clock, update, (1, 0), (1, 10), (31, 40), (1, 100))
  assert log.messages == ['40 of 100 images, 0.968 images/s, 1 min left.']


def test_batches_that_add_nothing(clock, log):
  with image_progress(100, 50, 'prepare', compiles=False) as update:
    take_batches(clock, update, (31, 50), (1, 60), (31, 60), (1, 60))
  assert log.messages == ['50 of 100 images.', '60 of 100 images.']


def test_nothing_left_announces_nothing(clock, log):
  with image_progress(100, 100) as update:
    update(100)
  assert not log.messages


def test_a_bar_tells_the_rate_without_the_first_batch(clock, log):
  with terminal() as read, image_progress(1000, 0, 'sweep') as update:
    assert re.search(r'sweep: +0%.* 0/1000 .*\?', read())
    take_batches(clock, update, (90, 100))
    assert re.search(r' 100/1000 \[00:00<\?', read().split('\r')[-1])
    take_batches(clock, update, (20, 200))
    assert ' 200/1000 [00:20<02:40,  5.00 images/s]' in read()
    take_batches(clock, update, (160, 1000))
    assert ' 1000/1000 [03:00<00:00,  5.00 images/s]' in read()
  assert len(log.messages) == 1  # the announcement; the bar shows the rest


def test_a_single_batch_has_a_rate(clock):
  with terminal() as read, image_progress(100, 0) as update:
    take_batches(clock, update, (20, 100))
    assert ' 100/100 [00:20<00:00,  5.00 images/s]' in read()
