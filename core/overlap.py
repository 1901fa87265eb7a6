"""Overlap of device computation with work on the host."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Started = TypeVar('Started')


def one_ahead(started: Iterable[Started]) -> Iterator[Started]:
  """Yields each item of `started` after taking the next item.

  Taking an item dispatches its computation, and JAX returns without waiting.
  The devices therefore compute one item while the host uses the previous item.
  """
  queue: list[Started] = []
  for item in started:
    yield from queue
    queue = [item]
  yield from queue
