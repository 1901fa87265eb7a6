"""Distills students on the digits, and compares them with their teacher.

  python -m experiments.distill_digits --teacher=runs/demo --out=runs/distilled

Trains every student of STUDENTS with every seed, except students that exist.
Samples the same number of images from every network, and writes to --out

  table.md               Frechet distances to the training images (not FID), in
                         features of a classifier trained on these images
  curves.png             training metrics of the students with the first seed
  samples.png            images of the students, then of the teacher

--failures instead trains the students in FAILURES with one seed, and writes
only curves.png.

The teacher's distances are means over disjoint sets of images. A student's
distances are means over seeds, which change training, label order and noise.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core import charts, markdown
from core.files import write_bytes
from sample import pictures
from train.metrics_log import read_metrics

# Arguments METHOD,STEPS of configs/distill/digits.py. Text after a space sets
# the teacher's guidance; without such text, the config file sets the guidance.
STUDENTS = (
  'flash,4', 'hybrid,4', 'dm,4', 'hybrid,1', 'dm,1',
  'hybrid,1 ig:1.1', 'hybrid,1 ig:1.1,cfg:1.05',
)  # fmt: skip
# Number of steps and guidance of each set of the teacher's samples.
TEACHER = (
  (50, 'cfg:1.2'), (50, 'ig:1.5'), (50, 'none'),
  (4, 'cfg:1.2'), (4, 'ig:1.5'), (4, 'none'),
  (1, 'cfg:1.2'), (1, 'ig:1.5'), (1, 'none'),
)  # fmt: skip
FAILURES = {
  'healthy': (),
  'CA alone': ('distill.regularizer=none', 'distill.guidance=cfg:3'),
  'alpha too large': ('distill.guidance=cfg:3',),
  'fake too slow': ('distill.fake_lr=1e-5',),
  'student too fast': ('optimizer.lr=2e-2',),
}
CURVES = (
  ('eval/fd', 'Frechet distance, 2,000 samples'),
  ('distill/student_std', 'standard deviation of x0 predictions'),
  ('distill/cosine_fake_real', 'cosine of fake and teacher'),
  ('distill/ca_to_dm', 'CA : DM'),
  ('distill/dm', 'rms of DM'),
  ('loss/fake', 'loss of the fake denoiser'),
)


def command(*words: object) -> float:
  """Runs a command of main.py; returns its duration in seconds."""
  begin = time.monotonic()
  subprocess.run([sys.executable, 'main.py', *map(str, words)], check=True)
  return time.monotonic() - begin


def measure(
  args: argparse.Namespace, source: Sequence[str], folder: pathlib.Path
) -> dict[str, Any]:
  """Returns the mean FD, its standard error and the mean class accuracy."""
  results = []
  for seed in range(args.seeds):
    target = folder.with_name(f'{folder.name}-{seed}')
    command(
      'evaluate', *(word.format(seed=seed) for word in source),
      f'--num={args.num}', f'--seed={seed}', f'--out={target}',
      f'--extractor=classifier:{args.out}/features', '--metrics=fd,accuracy',
      f'--reference={args.out}/real.npz',
    )  # fmt: skip
    values = json.loads((target / 'evaluation.json').read_text())['metrics']
    results.append((values['fd'], values['accuracy']))
  distances, accuracies = np.asarray(results).T
  spread = distances.std(ddof=1) if args.seeds > 1 else np.nan
  return {
    'fd': float(distances.mean()),
    'error': float(spread / args.seeds**0.5),
    'accuracy': float(accuracies.mean()),
  }


def draw(source: Sequence[str], folder: pathlib.Path) -> np.ndarray:
  """Samples 40 images from the network of the first seed."""
  words = [word.format(seed=0) for word in source]
  command('sample', *words, '--num=40', f'--out={folder}')
  with np.load(folder / 'samples.npz') as archive:
    return archive['arr_0']


def distill(
  args: argparse.Namespace, argument: str, workdir: pathlib.Path, *changes: str
) -> float:
  """Trains a student; returns the duration of training in seconds."""
  keys = [
    f'data.dir={args.data}', f'eval.extractor=classifier:{args.out}/features',
    "eval.metrics=('fd',)", 'eval.every_images=8000', *changes,
  ]  # fmt: skip
  return command(
    'distill', f'--config=configs/distill/digits.py:{argument}',
    f'--teacher={args.teacher}', f'--workdir={workdir}',
    *(f'--config.{assignment}' for assignment in keys),
  )  # fmt: skip


def train(
  args: argparse.Namespace, argument: str, guidance: str, target: pathlib.Path
) -> float:
  """Trains a student for each missing seed; returns the mean minutes."""
  seconds = []
  changes = [f'distill.guidance={guidance}'] if guidance else []
  for seed in range(args.seeds):
    watch = target.with_name(f'{target.name}-{seed}.seconds')
    if not watch.exists():
      folder = watch.with_suffix('')
      is_resumed = folder.exists()  # total time of a resumed run is unknown
      duration = distill(args, argument, folder, f'seed={seed}', *changes)
      watch.write_text('nan' if is_resumed else f'{duration:.1f}')
    seconds.append(float(watch.read_text()))
  return float(np.mean(seconds)) / 60


def fail(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
  """Trains the students of FAILURES; returns the logged metrics by name."""
  logs = {}
  for name, changes in FAILURES.items():
    path = args.out / name.replace(' ', '-')
    distill(args, 'hybrid,1', path, f'train.images={64 * 400}',
            'eval.every_images=3200', *changes)  # fmt: skip
    logs[name] = read_metrics(path)
  return logs


def curves(runs: dict[str, list[dict[str, float]]]) -> Figure:
  """Draws a panel for each metric of CURVES, with a line per run."""
  figure, panels = charts.make_chart(len(CURVES))
  for axes, (key, title) in zip(panels, CURVES, strict=True):
    for (name, rows), color in zip(
      runs.items(), itertools.cycle(charts.COLORS), strict=False
    ):
      points = [(r['step'], r[key]) for r in rows if key in r]
      if points:
        line = np.asarray(points).T
        axes.plot(*line, color=color, linewidth=1, label=name)
    low, high = axes.dataLim.intervaly
    log = 'y' if low > 0 and high > 20 * low else ''
    charts.label_panel(axes, title, 'steps', log=log)
  charts.add_legend(figure)
  return figure


def main() -> None:
  """Runs the experiment."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--teacher', required=True)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--data', default='runs/data')
  parser.add_argument('--num', type=int, default=10_000)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--students', default=';'.join(STUDENTS))
  parser.add_argument('--failures', action='store_true')
  args = parser.parse_args()
  on = ('--config=configs/digits.py', f'--config.data.dir={args.data}')
  if not (args.out / 'features').exists():
    command('train-features', *on, f'--to={args.out}/features')
  if not (args.out / 'real.npz').exists():
    command('reference', *on, f'--to={args.out}/real.npz',
            f'--extractor=classifier:{args.out}/features')  # fmt: skip
  if args.failures:
    pictures.write_figure(args.out / 'curves.png', curves(fail(args)))
    return
  rows, sheets, logs = [], [], {}

  for name in args.students.split(';'):
    argument, _, guidance = name.partition(' ')
    method, steps = argument.split(',')
    slug = f'{method}{steps}{guidance}'.translate({ord(c): '-' for c in ':,'})
    path = args.out / slug
    minutes = train(args, argument, guidance, path)
    source, log = [f'--workdir={path}-{{seed}}'], args.out / f'{slug}-0'
    if method == 'flash':
      source = [f'--folder={path}-{{seed}}/student']
      # Only the stage `sharing` is comparable with the other students.
      logs[f'{name}, sharing'] = read_metrics(log / '2-sharing')
    else:
      logs[name] = read_metrics(log)
    figures = measure(args, source, args.out / f'{slug}-scores')
    rows.append((name, int(steps), figures, f'{minutes:.1f}'))
    kinds = [part.partition(':')[0] for part in guidance.split(',')]
    images = draw(source, args.out / f'{slug}-drawn')
    sheets.append((f'{argument}\n{" + ".join(kinds)}', images))

  for steps, guidance in TEACHER:
    path = args.out / f'teacher-{guidance}-{steps}'.replace(':', '-')
    source = [f'--workdir={args.teacher}', f'--guidance={guidance}',
              f'--config.sample.steps={steps}']  # fmt: skip
    budget = f'{steps} step{"s" * (steps > 1)}'
    nfe = steps * (2 if 'cfg' in guidance else 1)
    name = f'teacher, {guidance}, {budget}'
    rows.append((name, nfe, measure(args, source, path), ''))
    images = draw(source, path.with_name(f'{path.name}-drawn'))
    sheets.append((f'{guidance}\n{budget}', images))
  rows.sort(key=lambda row: (-row[1], row[2]['fd']))
  text = markdown.table(
    ('network', 'NFE', 'FD', 'accuracy', 'minutes'),
    [
      (name, nfe, f'{scores["fd"]:.3f} ± {scores["error"]:.3f}',
       f'{scores["accuracy"]:.1%}', minutes)
      for name, nfe, scores, minutes in rows
    ],
  )  # fmt: skip
  write_bytes(args.out / 'table.md', text.encode())
  pictures.write_figure(args.out / 'curves.png', curves(logs))
  pictures.write_png(
    args.out / 'samples.png', pictures.sheet(sheets, 20, scale=4)
  )
  print(text)


if __name__ == '__main__':
  main()
