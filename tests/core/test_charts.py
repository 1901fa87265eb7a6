"""Tests the style of charts."""

import numpy as np
import pytest

from core import charts


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0, '0'), (40_000, '40,000'), (0.002, '0.002'), (1.5, '1.5'),
    (2e-9, '2e-09'), (-0.25, '-0.25'), (0.1 + 0.2, '0.3'),
  ],
)  # fmt: skip
def test_plain_numbers(value, text):
  assert charts.plain(value) == text


@pytest.mark.parametrize('top', [10, 10_000])
def test_labels_of_a_logarithmic_axis_are_plain(top):
  figure, (axes,) = charts.make_chart(1)
  axes.plot([1, 2], [0.5, top])
  charts.label_panel(axes, 'title', 'x', log='y')
  figure.draw_without_rendering()
  labels = [label.get_text() for label in axes.get_yticklabels()]
  assert axes.get_yscale() == 'log'
  assert '1' in labels and not any('$' in label for label in labels)
  minor = axes.yaxis.get_minorticklabels()
  assert not any(label.get_text() for label in minor)


def test_one_legend_for_all_panels():
  figure, panels = charts.make_chart(4)
  assert len(panels) == len(figure.axes) == 4
  for axes in panels:
    for name in ('a', 'b'):
      axes.plot(np.arange(3), label=name)
  charts.add_legend(figure)
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ['a', 'b']
  assert not any(axes.get_legend() for axes in panels)


def test_without_labels_there_is_no_legend():
  figure, _ = charts.make_chart(1)
  charts.add_legend(figure)
  assert not figure.legends
