"""Programs of these tests run a few steps."""

import pytest


@pytest.fixture(scope='module', autouse=True)
def quickly(quick_compilation):
  """Programs here run a few steps."""
