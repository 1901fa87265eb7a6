"""Tables and pictures of `experiments.toy_distill`."""

import dataclasses
from typing import Any

import numpy as np
from matplotlib.figure import Figure

MEASURES = ('energy', 'guided', 'outward', 'spread', 'total')
_DRAWN = {
  'energy': 'energy distance to the teacher',
  'spread': 'variance within a class / teacher',
  'total': 'variance of all points / teacher',
}


@dataclasses.dataclass(frozen=True)
class Results:
  """What was measured.

  Attributes:
    marks: updates of the student.
    rows: name to (seeds, measures), at the end.
    curves: name to (seeds, marks, measures).
    panels: name to points (n, 2), of the first seed.
  """

  marks: tuple[int, ...]
  rows: dict[str, np.ndarray]
  curves: dict[str, np.ndarray]
  panels: dict[str, np.ndarray]

  def at(self, name: str, measure: str) -> np.ndarray:
    """The curve of a measure, (seeds, marks)."""
    return self.curves[name][..., MEASURES.index(measure)]

  def text(self) -> str:
    """Tables as Markdown: mean over the seeds ± standard deviation."""
    lines = [
      f'After {self.marks[-1]} updates of the student:\n',
      f'| | {" | ".join(MEASURES)} |',
      '|---' * (len(MEASURES) + 1) + '|',
    ]
    for name, values in self.rows.items():
      cells = [_cell(column) for column in values.T]
      lines.append(f'| {name} | {" | ".join(cells)} |')
    for measure, title in _DRAWN.items():
      lines.append(f'\n{title[0].upper()}{title[1:]}, by updates:\n')
      lines.append(f'| | {" | ".join(map(str, self.marks))} |')
      lines.append('|---' * (len(self.marks) + 1) + '|')
      for name in self.curves:
        cells = [_cell(column) for column in self.at(name, measure).T]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'

  def as_dict(self) -> dict[str, Any]:
    """For JSON: every seed's figures."""
    return {
      'measures': MEASURES,
      'marks': self.marks,
      'end': {name: _plain(values) for name, values in self.rows.items()},
      'curves': {name: _plain(values) for name, values in self.curves.items()},
    }

  def clouds_figure(self) -> Figure:
    """The points, over the teacher's."""
    columns = 4
    rows = -(-len(self.panels) // columns)
    figure = Figure(figsize=(8, 2.2 * rows), layout='constrained')
    axes = figure.subplots(rows, columns).ravel()
    truth = self.panels['teacher']
    reach = 1.2 * np.abs(truth).max()
    for ax in axes[len(self.panels) :]:
      ax.axis('off')
    for ax, (name, x) in zip(axes, self.panels.items(), strict=False):
      ax.scatter(*truth[:1000].T, s=1, color='0.85')
      for c in (0, 1):
        ax.scatter(*x[c:1000:2].T, s=1.5, linewidths=0)
      # Points beyond the frame are not drawn.
      ax.set(aspect='equal', xlim=(-reach, reach), ylim=(-reach, reach),
             xticks=[], yticks=[])  # fmt: skip
      ax.set_title(name, fontsize='medium')
    return figure

  def curves_figure(self) -> Figure:
    """Measures over the updates: the mean, and least to greatest of seeds."""
    figure = Figure(figsize=(11, 3.6), layout='constrained')
    for ax, (measure, title) in zip(
      figure.subplots(1, len(_DRAWN)), _DRAWN.items(), strict=True
    ):
      for name in self.curves:
        values = self.at(name, measure)[:, 1:]
        (line,) = ax.plot(self.marks[1:], values.mean(0), marker='.')
        line.set_label(name)
        ax.fill_between(
          self.marks[1:], values.min(0), values.max(0), alpha=0.2,
          color=line.get_color(), linewidth=0,
        )  # fmt: skip
      level = self.rows['teacher'][:, MEASURES.index(measure)].mean()
      ax.axhline(level, color='0.5', linestyle='--', label='teacher')
      ax.set(title=title, xlabel='updates', xscale='log', ylim=(0, None))
    ax.legend(fontsize='small')
    return figure


def _cell(values: np.ndarray) -> str:
  mean = values.mean()
  if len(values) < 2:
    return f'{mean:.3f}'
  return f'{mean:.3f} ± {values.std(ddof=1):.3f}'


def _plain(values: np.ndarray) -> list:
  return np.round(values, 4).tolist()
