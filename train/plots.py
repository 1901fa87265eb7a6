"""Plots logged metrics against the number of images seen."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from core import charts

Rows = Sequence[Mapping[str, float]]
Charts = dict[str, Figure]  # charts by title


def losses(rows: Rows) -> Charts:
  """Plots every loss term."""

  def label(name):
    name = name.removeprefix('loss/')
    name = name.replace('intermediate_', 'intermediate after block ')
    return 'total' if name == 'loss' else name

  names = _names(rows, lambda name: name.startswith('loss'))
  return _charts(rows, {'Loss': {name: label(name) for name in names}}, log='y')


def optimization(rows: Rows) -> Charts:
  """Plots gradient norm and learning rate."""
  return _charts(rows, {'Gradient norm': {'grad_norm': ''}}, log='y') | _charts(
    rows, {'Learning rate': {'lr': ''}}
  )


def throughput(rows: Rows) -> Charts:
  """Plots images per second and the share of time spent waiting for data."""
  panels = {
    'Images per second': {'images_per_second': ''},
    'Share of time': {'waiting': 'waiting for data', 'mfu': 'MFU'},
  }
  return _charts(rows, panels, zero=True)


def panels_of(rows: Rows, prefix: str) -> Charts:
  """Plots each metric with a prefix, such as 'eval/'."""
  names = _names(rows, lambda name: name.startswith(prefix))
  names = [name for name in names if not name.endswith('_se')]
  return _charts(rows, {n.removeprefix(prefix): {n: ''} for n in names})


def _names(rows: Rows, test: Callable[[str], bool]) -> list[str]:
  return [n for n in dict.fromkeys(n for row in rows for n in row) if test(n)]


def _charts(
  rows: Rows,
  panels: Mapping[str, Mapping[str, str]],
  *,
  log: str = '',
  zero: bool = False,
) -> Charts:
  """Draws a chart for each title; its curves are labels by metric."""
  result = {}
  for title, curves in panels.items():
    lines = {}
    for name, label in curves.items():
      lines[label] = [
        (row['images'], row[name]) for row in rows if {'images', name} <= {*row}
      ]
    if not any(lines.values()):
      continue
    figure, (axes,) = charts.make_chart(1, size=(7, 4.5))
    # Line styles differ: the curves of a total and its only term coincide.
    styles = itertools.cycle(charts.LINES)
    for (label, points), style in zip(lines.items(), styles, strict=False):
      if points:
        marker = 'o' if len(points) < 20 else None
        line = np.transpose(points)
        axes.plot(*line, style, label=label or None, marker=marker)
    if zero:
      axes.set_ylim(bottom=0)
    charts.label_panel(axes, title, 'images seen', log=log)
    charts.add_legend(figure)
    result[title] = figure
  return result
