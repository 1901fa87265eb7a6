"""Plots logged metrics against the number of images seen."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, float]]


def losses(rows: Rows) -> Figure | None:
  """Plots every loss term; returns None without logged losses."""

  def label(name):
    name = name.removeprefix('loss/')
    name = name.replace('intermediate_', 'intermediate after block ')
    return 'total' if name == 'loss' else name

  names = _names(rows, lambda name: name.startswith('loss'))
  return _figure(rows, [('loss', {name: label(name) for name in names}, 'log')])


def optimization(rows: Rows) -> Figure | None:
  """Plots gradient norm and learning rate."""
  return _figure(
    rows,
    [
      ('gradient norm', {'grad_norm': 'grad_norm'}, 'log'),
      ('learning rate', {'lr': 'lr'}, 'linear'),
    ],
  )


def throughput(rows: Rows) -> Figure | None:
  """Plots images per second and the share of time spent waiting for data."""
  panels = [
    ('images per second', {'images_per_second': 'images/s'}, 'linear'),
    ('share of time', {'waiting': 'waiting for data', 'mfu': 'MFU'}, 'linear'),
  ]
  return _figure(rows, panels, zero=True)


def panels_of(rows: Rows, prefix: str) -> Figure | None:
  """Plots one panel for each metric with a prefix, such as 'eval/'."""
  names = _names(rows, lambda name: name.startswith(prefix))
  names = [name for name in names if not name.endswith('_se')]
  panels = [(n.removeprefix(prefix), {n: n}, 'linear') for n in names]
  return _figure(rows, panels)


def _names(rows: Rows, test: Callable[[str], bool]) -> list[str]:
  return [n for n in dict.fromkeys(n for row in rows for n in row) if test(n)]


def _figure(
  rows: Rows,
  panels: Sequence[tuple[str, Mapping[str, str], str]],
  *,
  zero: bool = False,
) -> Figure | None:
  """Draws panels, each defined by a title, labeled curves and a y-scale."""
  names = set(_names(rows, lambda name: True))
  panels = [panel for panel in panels if names & panel[1].keys()]
  if not panels:
    return None
  width = 7 if len(panels) == 1 else 4.5 * min(len(panels), 3)
  height = -(-len(panels) // 3)
  figure = Figure(figsize=(width, 4 * height), layout='constrained')
  grid = figure.subplots(height, min(len(panels), 3), squeeze=False).ravel()
  for axes, (title, curves, scale) in zip(grid, panels, strict=False):
    _draw(axes, rows, curves)
    axes.set(xlabel='images seen', ylabel=title, yscale=scale)
    axes.grid(which='both', alpha=0.25)
    if zero:
      axes.set_ylim(bottom=0)
    if len(curves) > 1:
      axes.legend()
  for axes in grid[len(panels) :]:
    axes.remove()
  return figure


def _draw(axes: Axes, rows: Rows, curves: Mapping[str, str]) -> None:
  # Line styles differ, since the curves of a total and its only term coincide.
  for (name, label), line in zip(
    curves.items(), itertools.cycle(('-', '--', '-.', ':')), strict=False
  ):
    points = [
      (row['images'], row[name]) for row in rows if {'images', name} <= {*row}
    ]
    if points:
      marker = 'o' if len(points) < 20 else None
      axes.plot(*np.transpose(points), line, label=label, marker=marker)
