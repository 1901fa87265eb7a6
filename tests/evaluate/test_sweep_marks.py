"""A sweep marks its best point, and every point tied with this point."""

import csv
import io
import math

import numpy as np

from evaluate import sweep
from evaluate.sweep import SweepGrid
from evaluate.ties import as_markdown, marks


def test_points_within_two_errors_of_the_difference_are_tied():
  """The best point, 2.13 +- 0.84, ties with 2.58 +- 0.81, not with 9 +- 0.9."""
  rows = {
    (1.0,): {'fd': 9.0, 'fd_se': 0.9},
    (1.5,): {'fd': 2.58, 'fd_se': 0.81},
    (2.0,): {'fd': 2.13, 'fd_se': 0.84},
  }
  assert list(marks(rows, 'fd').values()) == ['', 'tied', 'best']
  edge = 2.13 + 2 * math.hypot(0.84, 0.5)
  rows[1.0,] = {'fd': edge - 1e-9, 'fd_se': 0.5}
  assert marks(rows, 'fd')[1.0,] == 'tied'
  rows[1.0,] = {'fd': edge + 1e-9, 'fd_se': 0.5}
  assert marks(rows, 'fd')[1.0,] == ''
  assert marks(rows, 'fd')[2.0,] == 'best'


def test_the_highest_accuracy_is_best_and_nan_never_is():
  rows = {
    (k,): {'accuracy': value} for k, value in enumerate((0.5, 0.9, math.nan))
  }
  assert list(marks(rows, 'accuracy').values()) == ['', 'best', '']
  assert set(marks({(0,): {'fd': math.nan}}, 'fd').values()) == {''}


def test_a_continued_sweep_has_the_values_that_were_measured(tmp_path):
  grid = SweepGrid.of('ig:1..2:2,cfg:1..2:2')
  rng = np.random.default_rng(0)
  rows = {
    point: {'fd': rng.random() * 9, 'fd_se': rng.random(), 'nfe': 2.0,
            'nonfinite': 0, 'cfg_scale': 1 + rng.random()}
    for point in grid.points()
  }  # fmt: skip
  protocol = {'guidance': grid.template}
  (tmp_path / 'sweep.json').write_text('{"guidance": "ig:*,cfg:*"}')
  text = sweep._as_csv(grid, rows, marks(rows, 'fd'))
  (tmp_path / 'sweep.csv').write_text(text)
  assert sweep._known_rows(tmp_path, protocol, grid, False) == rows
  pictures = []
  for known in (rows, sweep._known_rows(tmp_path, protocol, grid, False)):
    picture = io.BytesIO()
    figure = sweep._figure(grid, known, 'fd', 'FD')
    figure.savefig(picture, format='png')
    pictures.append(picture.getvalue())
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert all('±' in text for text in shown)
    frames = {patch.get_linestyle() for patch in figure.axes[0].patches}
    assert '-' in frames or 'solid' in frames
  assert pictures[0] == pictures[1]
  lines = list(csv.DictReader(io.StringIO(text)))
  assert [line['mark'] for line in lines].count('best') == 1


def test_the_table_shows_errors_and_marks():
  grid = SweepGrid.of('ig:1..2:2')
  rows = {
    (1.0,): {'fd': 2.58, 'fd_se': 0.81, 'nfe': 1.0, 'nonfinite': 0},
    (2.0,): {'fd': 2.13, 'fd_se': 0.84, 'nfe': 1.0, 'nonfinite': 0},
  }
  table = as_markdown(grid.names, rows, 'fd')
  assert '| 1 | 2.58 ± 0.81 | 1 | 0 | tied |' in table
  assert '| 2 | 2.13 ± 0.84 | 1 | 0 | best |' in table
  assert 'points are independent' in table
  for row in rows.values():
    del row['fd_se']
  assert 'ties are unknown' in as_markdown(grid.names, rows, 'fd')
