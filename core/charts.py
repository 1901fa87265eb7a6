"""Style of all charts: colors, sizes of text, plain numbers, one legend.

The colors can be told apart with any kind of color vision. The text is still
readable when a chart is shown at half its size.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
  FuncFormatter,
  LogLocator,
  MaxNLocator,
  NullFormatter,
)

# Palette of Okabe and Ito (2008), without its yellow, which is hard to see on
# white.
COLORS = (
  '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000',
)  # fmt: skip
LINES = ('-', '--', '-.', ':')
_TEXT = 13  # size of text in points
_DPI = 130  # pixels per inch of a PNG
_PANEL = (5.6, 4.2)  # width and height of a panel in inches


def make_chart(
  panels: int, columns: int = 3, size: tuple[float, float] = _PANEL
) -> tuple[Figure, list[Axes]]:
  """Returns a figure with panels of equal size, at most `columns` per row.

  `size` is the width and height of a panel in inches.
  """
  columns = min(panels, columns)
  rows = -(-panels // columns)
  size = size[0] * columns, size[1] * rows
  figure = Figure(size, dpi=_DPI, layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
  for extra in axes[panels:]:
    extra.remove()
  for panel in axes[:panels]:
    panel.set_prop_cycle(color=COLORS)
    panel.tick_params(labelsize=_TEXT)
    panel.grid(alpha=0.25)
  return figure, axes[:panels]


def label_panel(
  axes: Axes, title: str, x: str, y: str = '', *, log: str = ''
) -> None:
  """Sets title and axis labels; `log` names the logarithmic axes, as in 'y'.

  Call this function after plotting: the range of a logarithmic axis determines
  its labels.
  """
  axes.set_title(title, fontsize=_TEXT + 1)
  axes.set_xlabel(x, fontsize=_TEXT)
  axes.set_ylabel(y, fontsize=_TEXT)
  axes.xaxis.set_major_locator(MaxNLocator(5))  # numbers do not overlap
  for name in log:
    axis = getattr(axes, f'{name}axis')
    getattr(axes, f'set_{name}scale')('log')
    low, high = axis.get_view_interval()
    dense = high / max(low, 1e-300) < 100
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if dense else (1,)))
    axis.set_minor_formatter(NullFormatter())
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def plain(value: float) -> str:
  """Returns a number such as '40,000' or '0.002'.

  Only values below 1e-6 have an exponent.
  """
  if value and abs(value) < 1e-6:
    return f'{value:.0e}'
  return f'{float(f"{value:.6g}"):,.10f}'.rstrip('0').rstrip('.')


def add_legend(figure: Figure) -> None:
  """Adds one legend below all panels, without repeated labels."""
  lines: dict[Any, Any] = {}
  for axes in figure.axes:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      lines.setdefault(label, handle)
  if not lines:
    return
  entry = 0.75 + 0.11 * max(map(len, lines))  # width of an entry in inches
  columns = int(figure.get_figwidth() / entry)
  figure.legend(
    [*lines.values()], [*lines], loc='outside lower center', fontsize=_TEXT,
    ncols=int(np.clip(columns, 1, len(lines))),
  )  # fmt: skip
