"""Shows the curves of healthy and sick training runs on the digits.

  python -m experiments.training_curves --out=runs/curves

Trains the digits recipe with three seeds, and once for each entry of SICK; runs
that exist are kept. Every 3,840 training images, a run scores 500 unguided
samples of its EMA weights. Writes to --out

  training_curves.png    loss and Frechet distance over images seen
  training_samples.png   one sample of each class, over time and at the end
  table.md               last loss and Frechet distance of each run
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from core import charts, markdown
from core.files import write_bytes
from experiments.distill_digits import command
from sample import pictures
from train.metrics_log import read_metrics

SEEDS = 3
SICK = {
  'learning rate x 30': ('optimizer.lr=9e-2', 'optimizer.clip=0.0'),
  'learning rate / 30': ('optimizer.lr=1e-4',),
  'average too slow': ('ema.decay=0.9999', 'ema.ramp=False'),
}
EVERY = 3_840
SHOWN = (3_840, 7_680, 15_360, 38_400)  # images seen at each preview shown
_SMOOTH = 5  # log lines per running mean of the loss

Rows = Sequence[Mapping[str, float]]


def train(out: pathlib.Path, name: str, changes: Sequence[str]) -> Rows:
  """Trains a run unless it exists; returns the lines of its log."""
  keys = (
    f'data.dir={out}/data', f'eval.extractor=classifier:{out}/features',
    "eval.metrics=('fd',)", 'eval.num=500', f'eval.every_images={EVERY}',
    f'log.preview_every_images={EVERY}', 'log.preview_guidance=none',
    'log.preview_num=10', *changes,
  )  # fmt: skip
  command(
    'train', f'--workdir={out / name}',
    *(f'--config.{assignment}' for assignment in keys),
  )  # fmt: skip
  return read_metrics(out / name)


def curve(rows: Rows, metric: str) -> np.ndarray:
  """Returns images seen and metric values, (2, n), from a run's log lines."""
  pairs = [(row['images'], row[metric]) for row in rows if metric in row]
  return np.asarray(pairs).T


def smooth(values: np.ndarray) -> np.ndarray:
  """Returns running means of `values` (n,) over _SMOOTH log lines."""
  return np.asarray(
    [values[max(0, i - _SMOOTH + 1) : i + 1].mean() for i in range(len(values))]
  )


def draw_curves(healthy: Sequence[Rows], sick: Mapping[str, Rows]) -> Figure:
  """Plots loss and distance; all healthy runs have the same color."""
  figure, panels = charts.make_chart(2)
  healthy_color, *colors = charts.COLORS
  runs = [('healthy, three seeds', healthy_color, rows) for rows in healthy]
  runs += [
    (name, color, rows)
    for (name, rows), color in zip(sick.items(), colors, strict=False)
  ]
  for name, color, rows in runs:
    images, losses = curve(rows, 'loss')
    panels[0].plot(images, smooth(losses), color=color, label=name)
    panels[1].plot(*curve(rows, 'eval/fd'), color=color, marker='.')
  for panel, title in (
    (panels[0], f'Training loss, mean of {_SMOOTH} lines'),
    (panels[1], 'Frechet distance of 500 unguided samples'),
  ):
    charts.label_panel(panel, title, 'images seen', log='y')
  charts.add_legend(figure)
  return figure


def draw_samples(out: pathlib.Path) -> np.ndarray:
  """Stacks previews of a healthy run, then each sick run's last preview."""

  def preview(name: str, images: int) -> np.ndarray:
    path = out / name / 'previews' / f'{images // 64:08}.png'
    with Image.open(path) as image:
      return np.asarray(image)[None, ..., None]

  blocks = [(f'{n:,} images', preview('healthy-0', n)) for n in SHOWN]
  blocks += [(name, preview(name, SHOWN[-1])) for name in SICK]
  return pictures.sheet(blocks, 1, scale=1)


def main() -> None:
  """Trains the runs and draws them."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, default='runs/curves')
  out = parser.parse_args().out
  if not (out / 'features').exists():
    command(
      'train-features', f'--to={out}/features', f'--config.data.dir={out}/data'
    )
  healthy = [
    train(out, f'healthy-{seed}', [f'seed={seed}']) for seed in range(SEEDS)
  ]
  sick = {name: train(out, name, changes) for name, changes in SICK.items()}
  table = [
    [name, f'{smooth(curve(rows, "loss")[1])[-1]:.3f}',
     f'{curve(rows, "eval/fd")[1][-1]:.2f}']
    for name, rows in [*((f'healthy, seed {k}', rows) for k, rows in
                         enumerate(healthy)), *sick.items()]
  ]  # fmt: skip
  text = markdown.table(['run', 'loss', 'Frechet distance'], table)
  write_bytes(out / 'table.md', text.encode())
  pictures.write_figure(out / 'training_curves.png', draw_curves(healthy, sick))
  pictures.write_png(out / 'training_samples.png', draw_samples(out))
  print(text)


if __name__ == '__main__':
  main()
