"""The table, and the structure of a sweep."""

import dataclasses

import jax
import numpy as np
import pytest

from core.errors import InputError
from evaluate.compare import CompareConfig, Row, format_table
from evaluate.scorer import Distance, Scores
from guidance.parse import describe

CONFIG = CompareConfig(
  num=4,
  methods=('none',),
  sweep_methods=('ig', 'cfg', 's2'),
  sweep_scales=(1.25, 2.0),
  resamples=2,
)


def test_sweep_has_one_structure():
  points = CONFIG.sweep()
  structures = {jax.tree.structure(guidance) for _, _, guidance in points}
  assert len(structures) == 1
  assert all(len(jax.tree.leaves(guidance)) == 3 for _, _, guidance in points)


def test_sweep_moves_one_scale_at_a_time():
  points = [(name, scale, describe(g)) for name, scale, g in CONFIG.sweep()]
  assert points == [
    ('ig', 1.25, 'ig:1.25,cfg:1,s2:1'),
    ('ig', 2.0, 'ig:2,cfg:1,s2:1'),
    ('cfg', 1.25, 'ig:1,cfg:1.25,s2:1'),
    ('cfg', 2.0, 'ig:1,cfg:2,s2:1'),
    ('s2', 1.25, 'ig:1,cfg:1,s2:1.25'),
    ('s2', 2.0, 'ig:1,cfg:1,s2:2'),
  ]


def test_sweep_may_be_empty():
  for change in ({'sweep_methods': ()}, {'sweep_scales': ()}):
    assert dataclasses.replace(CONFIG, **change).sweep() == []


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num': 1}, 'an integer from 2 to'),
    ({'resamples': 1}, 'an integer from 2 to'),
    ({'sweep_methods': ('ig', 'cfgg')}, "mean 'cfg'"),
    ({'sweep_methods': ('ig', 'ig')}, 'names ig twice'),
  ],
)
def test_config_errors(change, message):
  with pytest.raises(InputError, match=message):
    dataclasses.replace(CONFIG, **change)


def scores(features, pixels, accuracy):
  """Each distance as value and standard error."""
  return Scores(
    *(
      # The standard deviation of (-1, 0, 1) is 1.
      Distance(value, value + error * np.asarray([-1, 0, 1]))
      for value, error in (features, pixels)
    ),
    accuracy,
  )


def test_table():
  rows = [
    Row('none', scores((10, 3), (2, 0.3), 0.75), 50.0, 120.4, (0.0, 0.0)),
    Row(
      'ig:1.5,cfg:1.2@0-0.7',
      scores((5, 4), (2.5, 0.4), 0.8),
      85.25,
      60.0,
      (1.04, -12.96),
    ),
    Row('real, held out', scores((1, 0.1), (0.5, 0.05), 0.9876)),
  ]
  header, line, *body = format_table(rows).splitlines()
  cells = [[c.strip() for c in row.split('|')[1:-1]] for row in body]
  assert {len(row) for row in cells} == {header.count('|') - 1}
  assert set(line) == {'|', '-'} and line.count('|') == header.count('|')
  assert cells == [
    ['none', '', '50', '10.00 ± 3.00', '2.000 ± 0.300', '75.0%', '120', ''],
    ['IG + CFG', '1.5, 1.2@0-0.7', '85.25', '5.00 ± 4.00', '2.500 ± 0.400',
     '80.0%', '60', '+1.0, -13.0 se'],
    ['real, held out', '', '', '1.00 ± 0.10', '0.500 ± 0.050', '98.8%', '',
     ''],
  ]  # fmt: skip
