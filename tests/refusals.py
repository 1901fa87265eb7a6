"""Refusals: an InputError of one line."""

import contextlib

import pytest

from core.errors import InputError


@contextlib.contextmanager
def refused(*words):
  """Expects a refusal that holds these words."""
  with pytest.raises(InputError) as caught:
    yield caught
  assert '\n' not in str(caught.value)
  for word in words:
    assert str(word) in str(caught.value)


def is_refused(call, *words):
  """Calls it, and expects a refusal that holds these words."""
  with refused(*words):
    call()
