"""Marks the best point of a sweep, and the points tied with it.

A point is tied if it differs from the best point by at most two standard errors
of independent sets:

  |m - m_best| <= 2 sqrt(se^2 + se_best^2)

All points share labels and noise, so the true error of a difference is smaller,
and a paired test would separate some tied points. No points are tied without
standard errors, which --bootstrap and --repeats compute.
"""

import math
from collections.abc import Mapping, Sequence

from core import markdown
from evaluate.metrics import LOWER, Estimate

TIED = 2  # largest difference of tied points, in standard errors
MARK = 'mark'
Rows = Mapping[tuple[float, ...], Mapping[str, float]]


def marks(rows: Rows, metric: str) -> dict[tuple[float, ...], str]:
  """Returns 'best', 'tied' or '' for each point."""
  sign = 1 if metric in LOWER else -1
  known = {p: row for p, row in rows.items() if math.isfinite(row[metric])}
  marked = dict.fromkeys(rows, '')
  if not known:
    return marked
  best = min(known, key=lambda point: sign * known[point][metric])
  for point, row in known.items():
    errors = [r.get(f'{metric}_se', 0.0) for r in (row, known[best])]
    difference = abs(row[metric] - known[best][metric])
    if all(errors) and difference <= TIED * math.hypot(*errors):
      marked[point] = 'tied'
  return {**marked, best: 'best'}


def as_markdown(names: Sequence[str], rows: Rows, metric: str) -> str:
  """Returns a Markdown table with standard errors and a note on the marks."""
  marked = marks(rows, metric)
  metrics = [
    name for name in next(iter(rows.values())) if not name.endswith('_se')
  ]
  heads = [*names, *metrics, MARK]
  lines = []
  for point, row in rows.items():
    cells = [f'{scale:g}' for scale in point]
    for name in metrics:
      cells.append(str(Estimate(row[name], row.get(f'{name}_se'))))
    lines.append([*cells, marked[point]])
  note = (
    'no standard errors, so ties are unknown; see --bootstrap and --repeats'
  )
  if any(f'{metric}_se' in row for row in rows.values()):
    note = (
      f'tied: within {TIED} standard errors of the difference from the best '
      f'{metric}, if points are independent'
    )
  return f'{markdown.table(heads, lines)}{note}.\n'
