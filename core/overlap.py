"""Work of the devices beside work of the host."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Started = TypeVar('Started')


def one_ahead(started: Iterable[Started]) -> Iterator[Started]:
  """Yields each item after the next one is started.

  JAX starts a program and returns, so while one result is read back and used,
  the devices compute the next.

  Args:
    started: Items whose computation starts when they are taken.
  """
  pending: list[Started] = []
  for item in started:
    yield from pending
    pending = [item]
  yield from pending
