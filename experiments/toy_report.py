"""Runs a toy experiment, and writes tables (Markdown) and a figure (PNG).

Every method samples at every scale of SCALES with the same noise. For each
method, the scale with the smallest mean energy distance is selected. A table
shows the measures at this scale with new noise.
"""

import argparse
import pathlib
import time
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import spatial

from core import charts, markdown
from experiments import toy
from sample import pictures

SCALES = (1.1, 1.25, 1.5, 2.0, 3.0)
MEASURES = ('energy', 'shift', 'spread', 'outliers', 'other', 'coverage')
_SHARES = MEASURES[3:]
_SWEEP_SEED, _FINAL_SEED = 1, 2
_DIGITS = dict(zip(MEASURES, (3, 2, 2, 3, 3, 3), strict=True))


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the energy distance of samples (n, 2), (m, 2); Szekely, Rizzo 2013.

  sqrt(2 E|x - y| - E|x - x'| - E|y - y'|) is a metric on distributions. Here,
  E|x - x'| excludes pairs of a point with itself, so that the estimate of the
  squared distance is unbiased. A negative estimate becomes 0.
  """
  between = spatial.distance.cdist(x, y).mean()
  within = sum(spatial.distance.pdist(z).mean() for z in (x, y))
  return float(np.sqrt(max(2 * between - within, 0)))


class Judge:
  """Compares samples with true points; a class has `count` samples."""

  def __init__(self, mixture: toy.Mixture, count: int) -> None:
    self.mixture, self.truth = mixture, []
    rng = np.random.default_rng(1000)
    for c in range(mixture.num_classes):
      real = mixture.draw(np.full(20 * count, c), rng)
      threshold = np.quantile(mixture.log_density(real, c), 0.001)
      gaps, _ = spatial.cKDTree(real[-count:]).query(real[:-count])
      self.truth.append((real[: 4 * count], threshold, np.quantile(gaps, 0.95)))

  def __call__(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Measures points (n, 2) with labels (n,); returns MEASURES, (6,).

    Every measure is averaged over the classes. `energy` is the energy distance,
    and `shift` the distance from the true mean. `spread` is sqrt(v / true v),
    where v is the trace of the covariance. `outliers` is the share of points
    where the true density is below its 0.1 % quantile, and `other` the share
    where another class is denser. `coverage` is the share of true points that
    have a point within a radius; `count` true samples would cover 95 %.
    """
    results = []
    for c, (real, threshold, radius) in enumerate(self.truth):
      points = x[label == c]
      density = [
        self.mixture.log_density(points, k) for k in range(len(self.truth))
      ]
      center, variance = self.mixture.moments(c)
      gaps, _ = spatial.cKDTree(points).query(real)
      results.append(
        [
          energy_distance(points, real),
          np.linalg.norm(points.mean(0) - center),
          np.sqrt(points.var(0, ddof=1).sum() / variance),
          np.mean(density[c] < threshold),
          np.mean(density[c] < np.max(density, axis=0)),
          np.mean(gaps < radius),
        ]
      )
    return np.mean(results, axis=0)


def command_line(
  name: str,
  run: Callable[[], tuple[str, Mapping[str, Figure]]],
  argv: list[str] | None = None,
) -> None:
  """Runs an experiment; writes its tables (NAME.md) and figures to --out.

  `run` returns the tables, and the figures by name. `argv` defaults to the
  arguments of the process.
  """
  parser = argparse.ArgumentParser()
  parser.add_argument(
    '--out', type=pathlib.Path, default='runs/toys', help='folder for results'
  )
  args = parser.parse_args(argv)
  start, cpu = time.perf_counter(), time.process_time()
  text, figures = run()
  start, cpu = time.perf_counter() - start, time.process_time() - cpu
  args.out.mkdir(parents=True, exist_ok=True)
  (args.out / f'{name}.md').write_text(text)
  for file, figure in figures.items():
    pictures.write_figure(args.out / f'{file}.png', figure)
  print(f'{text}\n{start:.0f} s, with {cpu:.0f} s of processor time')


def main(
  experiment: toy.Experiment,
  argv: list[str] | None = None,
  scales: tuple[float, ...] = SCALES,
) -> None:
  """Runs a guidance experiment, and writes NAME.md and NAME.png to --out."""

  def make():
    text, figure = run(experiment, scales)
    return text, {experiment.name: figure}

  command_line(experiment.name, make, argv)


def run(
  experiment: toy.Experiment, scales: tuple[float, ...] = SCALES
) -> tuple[str, Figure]:
  """Trains networks and measures samples; returns the tables and the figure."""
  mixture = experiment.mixture
  judge = Judge(mixture, experiment.points // mixture.num_classes)
  networks = toy.train(experiment, experiment.network)
  guides = toy.train(experiment, experiment.guide)
  clouds = {}

  def measure(text, seed, denoisers=networks):
    """Returns measures of all networks; stores the first network's points."""
    results = []
    for denoiser, guide in zip(denoisers, guides, strict=True):
      x, label = toy.draw(experiment, denoiser, text, seed, guide=guide)
      clouds.setdefault((text, seed), (x, label))
      results.append(judge(x, label))
    return np.asarray(results)

  label = np.arange(experiment.points) % mixture.num_classes
  true = [
    mixture.draw(label, np.random.default_rng(2000 + k))
    for k in range(experiment.networks)
  ]
  floor = np.asarray([judge(x, label) for x in true])
  none = measure('none', _FINAL_SEED)
  rows = [
    ('true', '', floor),
    ('none', '', none),
    ('the guide alone', '', measure('none', 0, guides)),
  ]
  # This baseline has the sweep's noise, so it is comparable with all methods.
  unguided = measure('none', _SWEEP_SEED)
  sweep, panels = {}, [('none', clouds['none', _SWEEP_SEED][0])]
  for name, text in experiment.methods.items():
    sweep[name] = np.stack(
      [measure(text.format(scale), _SWEEP_SEED) for scale in scales]
    )
    best = scales[sweep[name][..., 0].mean(1).argmin()]
    rows.append((name, best, measure(text.format(best), _FINAL_SEED)))
    fixed = text.format(experiment.fixed)
    panels.append((f'{name}, {fixed}', clouds[fixed, _SWEEP_SEED][0]))
  fixed = [('none', '', unguided)] + [
    (name, experiment.fixed, sweep[name][scales.index(experiment.fixed)])
    for name in sweep
  ]
  text = '\n'.join(
    [
      'Scale of least energy distance, sampled again:\n',
      table(rows),
      f'All at scale {experiment.fixed:g}:\n',
      table(fixed),
      'Energy distance at every scale:\n',
      _sweep_table(sweep, scales, unguided),
    ]
  )
  figure = draw_figure(true[0], label, panels, sweep, scales, floor, unguided)
  return text, figure


def table(rows: list[tuple[str, float | str, np.ndarray]]) -> str:
  """Returns a table of name, scale, measures (mean ± std over networks)."""
  lines = []
  for name, scale, values in rows:
    cells = [
      cell(values[:, k], _DIGITS[measure], share=measure in _SHARES)
      for k, measure in enumerate(MEASURES)
    ]
    text = scale if isinstance(scale, str) else f'{scale:g}'
    lines.append([name, text, *cells])
  return markdown.table(['method', 'scale', *MEASURES], lines)


def _sweep_table(sweep, scales, none) -> str:
  """Returns a table of energy distances; scale 1 means no guidance."""
  lines = [
    [name, *(cell(v[:, 0]) for v in (none, *values))]
    for name, values in sweep.items()
  ]
  return markdown.table(['method', *(f'{s:g}' for s in (1, *scales))], lines)


def cell(values: np.ndarray, digits: int = 3, *, share: bool = False) -> str:
  """Returns mean ± standard deviation; for one value, only the value."""
  scale, mark = (100, '%') if share else (1, '')
  digits = 1 if share else digits
  text = f'{scale * values.mean():.{digits}f}{mark}'
  if len(values) < 2:
    return text
  return f'{text} ± {scale * values.std(ddof=1):.{digits}f}'


def cloud(
  ax: Axes, name: str, x: np.ndarray, true: np.ndarray, label: np.ndarray
) -> None:
  """Draws points over the true points."""
  reach = 1.35 * np.abs(true).max()
  if x is not true:
    ax.scatter(*true.T, s=1, color='0.85')
  for c in np.unique(label):
    ax.scatter(*x[label == c].T, s=1.5, linewidths=0)
  ax.set(aspect='equal', xlim=(-reach, reach), ylim=(-reach, reach))
  charts.label_panel(ax, name, '')
  ax.set(xticks=[], yticks=[])


def draw_figure(
  true: np.ndarray,
  label: np.ndarray,
  panels: list[tuple[str, np.ndarray]],
  sweep: dict[str, np.ndarray],
  scales: tuple[float, ...],
  floor: np.ndarray,
  none: np.ndarray,
) -> Figure:
  """Draws the points of each method, and the measures by scale."""
  figure, axes = charts.make_chart(8, 4, (3.9, 4.0))
  for ax, (name, x) in zip(axes, [('true', true), *panels], strict=False):
    cloud(ax, name, x, true, label)
  others = axes[len(panels) + 1 :]
  for ax, measure in zip(others, ('energy', 'outliers'), strict=False):
    k = MEASURES.index(measure)
    for name, values in sweep.items():
      values = np.concatenate([none[None], values])[..., k]
      ax.plot([1, *scales], values.mean(1), marker='o', label=name)
    ax.axhline(floor[:, k].mean(), color='0.5', linestyle='--', label='true')
    title = 'energy distance' if measure == 'energy' else f'share of {measure}'
    ax.set_ylim(0, None)
    charts.label_panel(ax, f'{title} against scale', 'scale')
  charts.add_legend(figure)
  return figure
