"""Overlap of device computation with work on the host."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Started = TypeVar('Started')


def one_ahead(started: Iterable[Started]) -> Iterator[Started]:
  """Yields each item after taking the next one from `started`.

  Taking an item dispatches its computation, and JAX returns without waiting.
  The devices therefore compute the next item while the host uses this one.
  """
  pending: list[Started] = []
  for item in started:
    yield from pending
    pending = [item]
  yield from pending
