"""Measures metrics over a grid of guidance scales.

The text ig:1.0..2.0:6,cfg:1.0..2.0:6@0-0.7 specifies six scales for each of two
methods, and thus 36 points. A single compiled program samples all points, since
scales are arguments of the program. The results are:

  sweep.json   the protocol
  sweep.csv    unrounded values, one line per point, updated after each point; a
               column marks the best point and ties (`evaluate.ties`)
  sweep.png    a curve over one scale or a heat map over two scales

The same command resumes an interrupted sweep.
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import re
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from core import charts
from core.errors import InputError, quote
from core.files import read_json, write_bytes, write_json
from core.nested import without_folders
from core.progress import image_progress
from core.ranges import LARGE, check_value
from core.renamed_keys import upgrade
from dit.types import Denoiser
from evaluate.effective_scale import effective_scale
from evaluate.evaluator import Evaluator
from evaluate.metrics import as_dict, name_of
from evaluate.ties import MARK, as_markdown, marks
from guidance import parse
from guidance.parse import with_guide
from sample import nonfinite, pictures
from sample.generate import Sampler, plan_labels

MOST_POINTS = 10_000
# Names of the result files.
WRITES = ('sweep.json', 'sweep.csv', 'sweep.png')
_FRAMES = {'best': 'solid', 'tied': 'dashed'}
_MEANINGS = {'best': 'best', 'tied': 'tied (within 2 standard errors)'}
_NUMBER = r'\d+\.?\d*|\.\d+'
_PART = re.compile(rf'([^:]+):({_NUMBER})\.\.({_NUMBER}):(\d+)(.*)')


@dataclasses.dataclass(frozen=True)
class SweepGrid:
  """A guidance string with ranges of scales.

  Attributes:
    template: Guidance string with '*' for each range.
    names: Names of the swept methods.
    scales: Ascending scales of each method.
  """

  template: str
  names: tuple[str, ...]
  scales: tuple[tuple[float, ...], ...]

  @classmethod
  def of(cls, text: str) -> 'SweepGrid':
    """Parses text such as 'ig:1..2:6,cfg:1.3'.

    Raises InputError unless there are one or two ranges, none of them empty.
    """
    check_value('guidance', text, str)
    template, names = [], []
    scales: list[tuple[float, ...]] = []
    for part in map(str.strip, text.split(',')):
      match = _PART.fullmatch(part)
      if '..' in (match[5] if match else part) or '*' in part:
        raise InputError(
          f'cannot sweep {quote(part)}; a range LOW..HIGH:COUNT stands in '
          'the place of a scale, such as ig:1.0..2.0:6.'
        )
      if not match:
        template.append(part)
        continue
      low, high, count = float(match[2]), float(match[3]), int(match[4])
      values: list[float] = []
      if 2 <= count <= 1000 and high <= LARGE:
        values = [float(f'{v:.6g}') for v in np.linspace(low, high, count)]
      if not low < high <= LARGE or len(set(values)) < max(count, 2):
        raise InputError(
          f'cannot sweep {quote(part)}; expected LOW..HIGH:COUNT with LOW '
          'below HIGH and COUNT from 2 to 1000 scales, different in six digits.'
        )
      template.append(f'{match[1]}:*{match[5]}')
      names.append(match[1])
      scales.append(tuple(values))
    if not 1 <= len(names) <= 2:
      raise InputError(
        f'guidance {quote(text)} has {len(names)} ranges, expected one or '
        'two such '
        'as ig:1.0..2.0:6.'
      )
    if math.prod(map(len, scales)) > MOST_POINTS:
      raise InputError(
        f'guidance {quote(text)} has {math.prod(map(len, scales)):,} points, '
        f'expected at most {MOST_POINTS:,}; lower the counts.'
      )
    return cls(','.join(template), tuple(names), tuple(scales))

  def points(self) -> list[tuple[float, ...]]:
    """Returns the scales of every point; the last method varies fastest."""
    return list(itertools.product(*self.scales))

  def text(self, point: tuple[float, ...]) -> str:
    """Returns the guidance string of a point."""
    text = self.template
    for scale in point:
      text = text.replace('*', f'{scale:.6g}', 1)
    return text

  def texts(self) -> list[str]:
    """Returns the guidance string of every point."""
    return [self.text(point) for point in self.points()]


@dataclasses.dataclass(frozen=True)
class SweepConfig:
  """Settings of a sweep.

  Attributes:
    grid: Grid of the guidance scales to measure.
    metric: Metric that the figure shows and that determines the best point.
    num: Number of images per point, with balanced labels.
    seed: Random seed of all noise, which is the same for every point.
    overwrite: Whether to discard stored points of another protocol.
  """

  grid: SweepGrid
  metric: str
  num: int
  seed: int = 0
  overwrite: bool = False


def sweep(
  sampler: Sampler,
  config: SweepConfig,
  evaluator: Evaluator,
  *,
  protocol: dict[str, Any],
  folder: epath.PathLike,
  guide: Denoiser | None = None,
) -> str:
  """Measures the points that lack results; returns a Markdown table.

  Raises InputError if the folder holds points of another protocol.

  Args:
    sampler: Network and sampling settings.
    config: Points and settings of the measurement.
    evaluator: Evaluator whose metrics include `config.metric`.
    protocol: Other settings that determine the results, such as weights.
    folder: Folder of the results.
    guide: Weaker network of AutoGuidance.
  """
  folder = epath.Path(folder)
  grid, metric, num = config.grid, config.metric, config.num
  settings = dataclasses.asdict(sampler.config)
  del settings['batch_size']  # the batch size does not change the images
  protocol = json.loads(
    json.dumps(
      {
        **protocol,
        'evaluation': evaluator.protocol(),
        'guidance': grid.template,
        'sampling': settings,
        'num': num,
        'seed': config.seed,
      }
    )
  )
  rows = _known_rows(folder, protocol, grid, config.overwrite)
  write_json(folder / 'sweep.json', protocol)
  num_classes = sampler.denoiser.num_classes
  labels = plan_labels('balanced', num, num_classes, config.seed)
  missing = [point for point in grid.points() if point not in rows]
  with image_progress(len(missing) * num, 0, 'sweep') as progress:
    for n, point in enumerate(missing):
      guidance = with_guide(parse(grid.text(point)), guide)

      def advance(done: int, before: int = n * num) -> None:
        progress(before + done)

      sample = sampler.images(guidance, labels, config.seed, advance)
      scores = as_dict(evaluator.score(sample.images, labels))
      if nonfinite.too_many(sample.nonfinite, num):  # the scores are invalid
        scores = dict.fromkeys(scores, math.nan)
      scale = effective_scale(sampler, guidance, labels, config.seed)
      rows[point] = {
        **scores,
        'nfe': sample.nfe,
        'nonfinite': sample.nonfinite,
        'cfg_scale': scale.value if scale else math.nan,
      }
      text = _as_csv(grid, rows, marks(rows, metric))
      write_bytes(folder / 'sweep.csv', text.encode())
      value = rows[point][metric]
      logging.info('%s: %s %.4g', grid.text(point), metric, value)
  # The marks are written again: old marks may be for another metric.
  text = _as_csv(grid, rows, marks(rows, metric))
  write_bytes(folder / 'sweep.csv', text.encode())
  part = {point: rows[point] for point in grid.points()}
  name = name_of(metric, evaluator.extractor)
  pictures.write_figure(folder / 'sweep.png', _figure(grid, part, metric, name))
  return as_markdown(grid.names, part, metric)


def _known_rows(
  folder: epath.Path,
  protocol: dict[str, Any],
  grid: SweepGrid,
  overwrite: bool,
) -> dict[tuple[float, ...], dict[str, float]]:
  """Returns the results of earlier sweeps, keyed by point."""
  path = folder / 'sweep.json'
  if not path.exists() or not (folder / 'sweep.csv').exists():
    return {}
  try:
    record = read_json(path)
  except InputError:
    record = {}
  record = without_folders(upgrade(record))
  protocol = without_folders(protocol)
  if record != protocol:
    # Old points are deleted before sweep.json describes the new protocol.
    if overwrite:
      (folder / 'sweep.csv').unlink()
      (folder / 'sweep.png').unlink(missing_ok=True)
      return {}
    keys = sorted(
      key
      for key in protocol.keys() | record.keys()
      if protocol.get(key) != record.get(key)
    )
    raise InputError(
      f'{folder} holds a sweep of another protocol ({", ".join(keys)} differ); '
      'choose another --out, or discard it with --overwrite.'
    )
  names, points = read_points(folder / 'sweep.csv')
  scales = len(grid.names)
  if names[:scales] != [*grid.names]:
    raise InputError(
      f'{folder}/sweep.csv is damaged (its columns are {quote(names)}); '
      'measure again with --overwrite, or choose another --out.'
    )
  return {
    # Files of earlier versions lack some columns.
    tuple(point[:scales]): {'nonfinite': 0, 'cfg_scale': math.nan}
    | dict(zip(names[scales:], point[scales:], strict=True))
    for point in points
  }


def read_points(path: epath.Path) -> tuple[list[str], list[list[float]]]:
  """Reads the column names and points of sweep.csv, without the marks.

  Raises InputError if the file is damaged.
  """
  try:
    names, *lines = csv.reader(io.StringIO(path.read_text()), strict=True)
    if any(len(line) != len(names) for line in lines):
      raise ValueError('a line has another length than the first')
    if names[-1:] == [MARK]:
      names, lines = names[:-1], [line[:-1] for line in lines]
    points = [[float(value) for value in line] for line in lines]
  except (OSError, ValueError, csv.Error) as error:
    raise InputError(
      f'{path} is damaged ({error}); measure again with --overwrite, or choose '
      'another --out.'
    ) from error
  return names, points


def _as_csv(grid: SweepGrid, rows: dict, labels: dict) -> str:
  """Returns the results as CSV, without rounding any value."""
  stream = io.StringIO()
  columns = [*grid.names, *next(iter(rows.values())), MARK]
  lines = csv.DictWriter(stream, columns, lineterminator='\n')
  lines.writeheader()
  for point in sorted(rows):
    scales = dict(zip(grid.names, point, strict=True))
    values = {key: float(value) for key, value in rows[point].items()}
    lines.writerow({**scales, **values, MARK: labels[point]})
  return stream.getvalue()


def _figure(grid: SweepGrid, rows: dict, metric: str, name: str) -> Figure:
  """Draws a curve over one scale or a heat map over two scales."""
  draw = _curve if len(grid.names) == 1 else _heat_map
  return draw(grid, rows, metric, name)


def _curve(grid: SweepGrid, rows: dict, metric: str, name: str) -> Figure:
  """Draws a metric with standard errors over a scale, and marks the best."""
  figure, (axes,) = charts.make_chart(1, size=(7, 5))
  values = np.asarray([row[metric] for row in rows.values()])
  errors = np.asarray([row.get(f'{metric}_se', 0) for row in rows.values()])
  axes.errorbar(grid.scales[0], values, errors, marker='o', capsize=3)
  labels = list(marks(rows, metric).values())
  for mark, style in _FRAMES.items():
    points = [k for k, label in enumerate(labels) if label == mark]
    if not points:
      continue
    text = _MEANINGS[mark]
    if mark == 'best':
      (k,) = points
      text = (
        f'best: scale {grid.scales[0][k]:g}, {_value(values[k], errors[k])}'
      )
    axes.scatter(
      [grid.scales[0][k] for k in points], values[points], 180,
      facecolors='none', edgecolors=charts.COLORS[1], linestyles=style,
      linewidths=2, label=text, zorder=3,
    )  # fmt: skip
  label = f'{grid.names[0].upper()} scale (1: off)'
  charts.label_panel(axes, name, label)
  charts.add_legend(figure)
  return figure


def _heat_map(grid: SweepGrid, rows: dict, metric: str, name: str) -> Figure:
  """Draws a metric over two scales; frames mark the best and tied points."""
  rows_of_map, columns = map(len, grid.scales)
  size = max(7, 1.3 * columns + 2), max(5, 0.9 * rows_of_map + 2)
  figure, (axes,) = charts.make_chart(1, size=size)
  labels = list(marks(rows, metric).values())
  values = np.asarray([row[metric] for row in rows.values()])
  errors = np.asarray([row.get(f'{metric}_se', 0) for row in rows.values()])
  table = values.reshape(rows_of_map, columns)
  image = axes.imshow(table, origin='lower', aspect='auto', cmap='viridis_r')
  axes.grid(visible=False)
  figure.colorbar(image).ax.tick_params(labelsize='large')
  middle = (np.nanmin(values) + np.nanmax(values)) / 2 if any(labels) else 0
  for k, ((row, column), value) in enumerate(np.ndenumerate(table)):
    axes.text(
      column,
      row,
      _value(value, errors[k], '\n'),
      ha='center',
      va='center',
      color='white' if value >= middle else 'black',
      fontweight='bold' if labels[k] == 'best' else 'normal',
      fontsize='large',
    )
    if labels[k]:
      axes.add_patch(
        Rectangle(
          (column - 0.45, row - 0.45), 0.9, 0.9, fill=False,
          edgecolor=charts.COLORS[1], linestyle=_FRAMES[labels[k]],
          linewidth=2.5, label=_MEANINGS[labels[k]],
        )
      )  # fmt: skip
  first, second = (f'{method.upper()} scale (1: off)' for method in grid.names)
  charts.label_panel(axes, name, second, first)
  charts.add_legend(figure)
  for axis, scales in zip((axes.yaxis, axes.xaxis), grid.scales, strict=True):
    axis.set_ticks(range(len(scales)), [f'{scale:.4g}' for scale in scales])
  return figure


def _value(value: float, error: float, gap: str = ' ') -> str:
  """Returns a value with its standard error, if it has one, as text."""
  return f'{value:.3g}' + (f'{gap}± {error:.2g}' if error else '')
