"""Helpers that expect an `InputError` with a one-line message."""

import contextlib

import pytest

from core.errors import InputError


@contextlib.contextmanager
def refused(*words):
  with pytest.raises(InputError) as caught:
    yield caught
  assert '\n' not in str(caught.value)
  for word in words:
    assert str(word) in str(caught.value)


def is_refused(call, *words):
  with refused(*words):
    call()
