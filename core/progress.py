"""Progress bars on a terminal, and progress lines elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging
from tqdm import tqdm

_QUIET_SECONDS = 30


def progress_bar(**kwargs: Any) -> tqdm:
  """Returns a bar that only process 0 shows, and only on a terminal."""
  show = jax.process_index() == 0 and on_terminal()
  return tqdm(disable=not show, dynamic_ncols=True, **kwargs)


def on_terminal() -> bool:
  """Returns whether stderr is a terminal of nonzero width."""
  fd = sys.stderr.fileno() if sys.stderr.isatty() else None
  return fd is not None and os.get_terminal_size(fd).columns > 0


@contextlib.contextmanager
def image_progress(
  total: int, done: int, verb: str = 'sample', *, compiles: bool = True
) -> Iterator[Callable[[int], None]]:
  """Yields a function that takes the number of finished images.

  On a terminal, the function updates a bar with images/s and the time left.
  Elsewhere, the function logs both numbers every 30 seconds. The rate covers
  the time since the previous line. If several batches are left, the rate
  excludes the first batch, which may include compilation.

  Args:
    total: Number of images.
    done: Number of images that are already finished.
    verb: Name of the task in front of the bar.
    compiles: Whether the task runs a program, whose compilation is announced.
  """
  if compiles and done < total:
    # Only the caches of JAX know whether a program is new.
    logging.info(
      '%s: %d images; compiling first if the program is new.',
      verb, total - done,
    )  # fmt: skip
  start, initial, is_first = time.monotonic(), done, True
  with progress_bar(
    total=total, initial=done, unit=' images', desc=verb
  ) as bar:

    def update(done: int) -> None:
      nonlocal start, initial, is_first
      now = time.monotonic()
      seconds, count = now - start, done - initial
      ends_first = is_first and count > 0 and done < total
      if ends_first:
        is_first = False
        restart(bar, done)
      bar.update(done - bar.n if not bar.disable else 0)
      is_due = bar.disable and seconds > _QUIET_SECONDS and done < total
      if is_due:
        note = ''
        if ends_first:
          note = f'; the first batch took {seconds:.0f} s'
        elif count:
          rate = count / seconds
          left = (total - done) / rate / 60
          note = f', {rate:.3g} images/s, {left:.0f} min left'
        logging.info('%d of %d images%s.', done, total, note)
      if is_due or ends_first:
        start, initial = now, done

    yield update


def restart(bar: tqdm, done: int) -> None:
  """Restarts the clock of a bar at `done` images, after compilation."""
  if not bar.disable:
    bar.reset()
    bar.n = bar.last_print_n = bar.initial = done
    bar.refresh()
