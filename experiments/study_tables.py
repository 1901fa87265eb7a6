"""Writes the tables of docs/results.md from experiments/results/.

  python -m experiments.study_tables

For each title, a table has means over seeds. A difference is the mean, over
seeds, of the row minus the first row of the same seed; its standard error comes
from the spread over seeds. The error of a distance is that of its mean over
seeds: the bootstrap errors of the seeds are added in squares.
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core import markdown
from evaluate.metrics import Estimate
from experiments.study import FLOOR, RESULTS
from experiments.study_plans import PLANS

PAGE = pathlib.Path('docs/results.md')
COLUMNS = (
  'method', 'NFE', 'features', 'difference', 'accuracy', 'difference',
  'recall', 'CFG scale', 'seeds',
)  # fmt: skip
Rows = Sequence[Mapping[str, Any]]


def difference(rows: Rows, base: Rows, metric: str) -> tuple[float, float]:
  """Returns the mean difference of a metric from `base`, and its error.

  Rows are paired by their seed. The error is NaN for a single pair.
  """
  of_seed = {row['seed']: row[metric] for row in base}
  values = np.asarray([row[metric] - of_seed[row['seed']] for row in rows])
  if len(values) == 1:
    return float(values[0]), float('nan')
  return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def distance(rows: Rows) -> Estimate:
  """Returns the mean Frechet distance of rows that differ in their seeds."""
  errors = [row['fd_se'] for row in rows]
  return Estimate(
    float(np.mean([row['fd'] for row in rows])),
    float(np.linalg.norm(errors) / len(errors)),
  )


def by_title(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
  """Groups rows by their titles; held-out photographs come last."""
  groups: dict[str, list[Mapping[str, Any]]] = {}
  for row in sorted(rows, key=lambda row: row['title'] == FLOOR):
    groups.setdefault(row['title'], []).append(row)
  return groups


def table(rows: Rows) -> str:
  """Returns the Markdown table of a study; its first row is the baseline."""
  groups = by_title(rows)
  base = next(iter(groups.values()))
  lines = []
  for title, group in groups.items():
    guidance = group[0].get('guidance', '')
    name = title if guidance in ('', 'none') or guidance in title else (
      f'{title}: `{guidance}`'
    )  # fmt: skip
    accuracy, recall = (
      np.mean([row[key] for row in group]) for key in ('accuracy', 'recall')
    )
    features = distance(group)
    cells = ['', '']
    if group is not base and title != FLOOR:
      cells = [
        _signed(*difference(group, base, 'fd')),
        _signed(*difference(group, base, 'accuracy'), percent=True),
      ]
    scales = [row['cfg_scale'] for row in group if 'cfg_scale' in row]
    lines.append(
      [
        name,
        f'{group[0]["nfe"]:.4g}' if 'nfe' in group[0] else '',
        f'{features.value:.3f} ± {features.error:.3f}',
        cells[0],
        f'{accuracy:.1%}',
        cells[1],
        f'{recall:.2f}',
        f'{np.mean(scales):.2f}' if scales else '',
        ', '.join(str(row['seed']) for row in group)
        if 'run' in group[0]
        else '',
      ]
    )
  return markdown.table(COLUMNS, lines)


def _signed(value: float, error: float, percent: bool = False) -> str:
  """Formats a difference, with its error and its size in errors."""
  text = f'{value:+.1%}' if percent else f'{value:+.3f}'
  if np.isnan(error):
    return text
  spread = f'{error:.1%}' if percent else f'{error:.3f}'
  ratio = f' ({abs(value) / error:.1f} se)' if error else ''
  return f'{text} ± {spread}{ratio}'


def fill(text: str, tables: Mapping[str, str]) -> str:
  """Replaces the text between <!-- NAME --> and <!-- end --> by table NAME."""

  def replace(match: re.Match[str]) -> str:
    if match[2] not in tables:
      return match[0]
    return f'{match[1]}\n{tables[match[2]].strip()}\n{match[3]}'

  pattern = r'(<!-- ([a-z]+) -->\n).*?(\n<!-- end -->)'
  return re.sub(pattern, replace, text, flags=re.DOTALL)


def tables() -> dict[str, str]:
  """Returns the tables of all studies that have results."""
  paths = [path for path in RESULTS.glob('*.json') if path.stem in PLANS]
  return {path.stem: table(json.loads(path.read_text())) for path in paths}


if __name__ == '__main__':
  PAGE.write_text(fill(PAGE.read_text(), tables()))
