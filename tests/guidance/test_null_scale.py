"""Tests IG's own scale and interval for the rows of the null condition."""

import jax.numpy as jnp
import numpy as np
import pytest
from toy import LABEL, NULL, TOY, X, close, guided

from core.errors import InputError
from guidance import parse

T = 0.5


def predictions(label):
  """Returns the output and the tap's prediction of the network."""
  out = TOY(X, jnp.full(len(X), T), label)
  return out.velocity, out.intermediate[0]


@pytest.mark.parametrize('label_method', ['cfg:2', 'apg:2', 'cfg_zero:2'])
def test_null_equal_to_the_scale_changes_no_bit(label_method):
  ours = guided(f'ig:1.5:null=1.5@0.2-0.8,{label_method}', T)
  expected = guided(f'ig:1.5@0.2-0.8,{label_method}', T)
  np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
  ('options', 'scale', 'null'),
  [
    (':null=1', 1.5, 1),
    (':null=1.2', 1.5, 1.2),
    (':null=1.2@0.6-1', 1, 1),
    (':null=1.2:null_low=0.1@0.6-1', 1, 1.2),
    (':null=1.2:null_high=0.4', 1.5, 1),
  ],
)
def test_each_row_has_its_own_scale_and_interval(options, scale, null):
  (c, c_tap), (u, u_tap) = map(predictions, (LABEL, NULL))
  c, u = c + (scale - 1) * (c - c_tap), u + (null - 1) * (u - u_tap)
  close(guided(f'ig:1.5{options},cfg:3', T), c + 2 * (c - u))


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('ig:1.5:null=1', 'no method evaluates the null condition'),
    ('ig:1.5:null=1,icg:2', 'no method evaluates the null condition'),
    ('ig:1.5:null_low=0.2,cfg:2', 'but not null'),
    ('ig:1.5:null=1:null_low=0.9@0-0.5,cfg:2', 'interval 0.9-0.5'),
    ('ig:1.5:null=x,cfg:2', 'expected a number'),
  ],
)
def test_what_is_refused(text, words):
  with pytest.raises(InputError, match=words):
    parse(text)
