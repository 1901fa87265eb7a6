"""The best point of a sweep, and those that are as good.

One point is best, others may be as good: `mark` says 'best', and 'tied' where
the difference from the best is within two standard errors of it,

  |m - m_best| <= 2 sqrt(se^2 + se_best^2)

as of independent sets. All points share labels and noise, which makes the error
of a difference smaller, so that some tied points would be told apart by a
paired test. Without standard errors (--bootstrap, --repeats) nothing is tied.
"""

import math
from collections.abc import Mapping, Sequence

from core import markdown
from evaluate.metrics import LOWER, Estimate

TIED = 2  # standard errors of a difference that tell no points apart
MARK = 'mark'
Rows = Mapping[tuple[float, ...], Mapping[str, float]]


def marks(rows: Rows, metric: str) -> dict[tuple[float, ...], str]:
  """Returns 'best', 'tied' or '' for each point; see the module."""
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
  """Returns a table for people, with errors, and what its marks mean."""
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
    'no standard errors, so ties are not known; see --bootstrap and --repeats'
  )
  if any(f'{metric}_se' in row for row in rows.values()):
    note = (
      f'tied: within {TIED} standard errors of the difference from the best '
      f'{metric}, points being taken as independent'
    )
  return f'{markdown.table(heads, lines)}{note}.\n'
