"""Marks the best point of a sweep, and the points tied with it.

A point is tied if it differs from the best point by at most two standard errors
of the difference, computed as if both sets of images were independent:

  |m - m_best| <= 2 sqrt(se^2 + se_best^2)

All points share labels and noise, so the true standard error is smaller. A
paired test would separate some tied points. Ties require standard errors, which
--bootstrap and --repeats compute.
"""

import math
from collections.abc import Mapping, Sequence

from core import markdown
from evaluate.metrics import LOWER, Estimate

TIED = 2  # largest difference from the best point, in standard errors
MARK = 'mark'
Rows = Mapping[tuple[float, ...], Mapping[str, float]]


def marks(rows: Rows, metric: str) -> dict[tuple[float, ...], str]:
  """Returns 'best', 'tied' or '' for each point."""
  sign = 1 if metric in LOWER else -1
  points = {p: row for p, row in rows.items() if math.isfinite(row[metric])}
  result = dict.fromkeys(rows, '')
  if not points:
    return result
  best = min(points, key=lambda point: sign * points[point][metric])
  for point, row in points.items():
    errors = [r.get(f'{metric}_se', 0.0) for r in (row, points[best])]
    difference = abs(row[metric] - points[best][metric])
    if all(errors) and difference <= TIED * math.hypot(*errors):
      result[point] = 'tied'
  return {**result, best: 'best'}


def as_markdown(names: Sequence[str], rows: Rows, metric: str) -> str:
  """Returns a Markdown table with standard errors, and a note about ties."""
  labels = marks(rows, metric)
  metrics = [
    name for name in next(iter(rows.values())) if not name.endswith('_se')
  ]
  heads = [*names, *metrics, MARK]
  lines = []
  for point, row in rows.items():
    cells = [f'{scale:g}' for scale in point]
    for name in metrics:
      cells.append(str(Estimate(row[name], row.get(f'{name}_se'))))
    lines.append([*cells, labels[point]])
  note = (
    'no standard errors, so ties are unknown; see --bootstrap and --repeats'
  )
  if any(f'{metric}_se' in row for row in rows.values()):
    note = (
      f'tied: within {TIED} standard errors of the difference from the best '
      f'{metric}, if points are independent'
    )
  return f'{markdown.table(heads, lines)}{note}.\n'
