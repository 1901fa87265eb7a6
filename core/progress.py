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
  total: int, done: int, verb: str = 'sample'
) -> Iterator[Callable[[int], None]]:
  """Yields a function that takes the number of finished images.

  On a terminal, the function updates a bar with images/s and the time left.
  Elsewhere, the function logs both numbers every 30 seconds.
  """
  start = last = time.monotonic()
  initial = done
  with progress_bar(
    total=total, initial=done, unit=' images', desc=verb
  ) as bar:

    def update(done: int) -> None:
      nonlocal last
      now = time.monotonic()
      bar.update(done - bar.n if not bar.disable else 0)
      if bar.disable and now - last > _QUIET_SECONDS and done < total:
        last, rate = now, (done - initial) / (now - start)
        logging.info(
          '%d of %d images, %.3g images/s, %.0f min left.',
          done, total, rate, (total - done) / rate / 60,
        )  # fmt: skip

    yield update
