"""Students of the digits' teacher against the teacher, and their curves.

  python -m experiments.distill_digits --teacher=runs/demo --out=runs/distilled

Trains every student of STUDENTS with every seed (`python main.py distill`, a
process each; what is trained is not trained again), draws as many images from
each as from the teacher, and writes to --out

  table.md, table.json   Frechet distances to the training images, in features
                         of one classifier trained on them (not FID)
  curves.png             what the students of the first seed logged
  samples.png            images of the students, then of the teacher

The teacher's distances are means over disjoint sets of images, a student's over
seeds of everything: training, labels' order and noise.
"""

import argparse
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from core.files import write_bytes, write_json
from evaluate import classifier
from evaluate.frechet import Moments, frechet_distance
from input_pipeline.sources import load_all, open_source
from sample import pictures
from train.config_file import load_config, override
from train.experiment import build
from train.metrics_log import read_metrics

# Arguments of the config, and the teacher's guidance if it is another.
STUDENTS = (
  'flash,4', 'hybrid,4', 'dm,4', 'hybrid,1', 'dm,1',
  'hybrid,1 ig:1.1', 'hybrid,1 ig:1.1,cfg:1.05',
)  # fmt: skip
# Of the teacher: steps, and guidance.
TEACHER = (
  (50, 'cfg:1.2'), (50, 'ig:1.5'), (50, 'none'),
  (4, 'cfg:1.2'), (4, 'ig:1.5'), (4, 'none'),
  (1, 'cfg:1.2'), (1, 'ig:1.5'), (1, 'none'),
)  # fmt: skip
CURVES = (
  ('eval/fd', 'Frechet distance, 2,000 samples'),
  ('distill/student_std', 'standard deviation of x0 predictions'),
  ('distill/cosine_fake_real', 'cosine of fake and teacher'),
  ('distill/ca_to_dm', 'CA : DM'),
  ('distill/dm', 'rms of DM'),
  ('loss/fake', 'loss of the fake denoiser'),
)


def command(*words: object) -> float:
  """Runs a command of main.py; returns its seconds."""
  begin = time.monotonic()
  subprocess.run([sys.executable, 'main.py', *map(str, words)], check=True)
  return time.monotonic() - begin


class Measure:
  """Distances of samples to the training images."""

  def __init__(self, folder: pathlib.Path, data: str) -> None:
    """Trains the classifier, unless it is there."""
    if not folder.exists():
      command('train-features', '--config=configs/digits.py', f'--to={folder}',
              f'--config.data.dir={data}')  # fmt: skip
    self._network, _ = classifier.load(folder)
    config = override(load_config('configs/digits.py'), [f'data.dir={data}'])
    section = build(config.to_dict()).data
    images, _ = load_all(open_source(section, section.train_split))
    self._real = Moments.of(self._network(images)[0])

  def __call__(
    self, place: Sequence[str], folder: pathlib.Path, num: int, seed: int
  ) -> tuple[float, float]:
    """Frechet distance and accuracy of `num` images of a run or folder."""
    command('sample', *place, f'--num={num}', f'--seed={seed}',
            f'--out={folder}')  # fmt: skip
    with np.load(folder / 'samples.npz') as stored:
      features, found = self._network(stored['arr_0'])
    labels = np.arange(num) % 10
    distance = frechet_distance(Moments.of(features), self._real)
    return distance, float((found == labels).mean())


def row_of(name: str, nfe: int, figures: list[tuple[float, float]]) -> dict:
  """Mean and standard error over seeds."""
  distances, accuracies = np.asarray(figures).T
  count = len(distances)
  error = distances.std(ddof=1) / count**0.5 if count > 1 else np.nan
  return {
    'name': name,
    'nfe': nfe,
    'fd': float(distances.mean()),
    'error': float(error),
    'accuracy': float(accuracies.mean()),
    'each': distances.tolist(),
  }


def table(rows: Sequence[dict]) -> str:
  """The rows as Markdown."""
  lines = ['| network | NFE | FD | accuracy | minutes |']
  lines.append('|---|---|---|---|---|')
  for row in rows:
    minutes = f'{row["minutes"]:.1f}' if 'minutes' in row else ''
    lines.append(
      f'| {row["name"]} | {row["nfe"]} | {row["fd"]:.3f} ± {row["error"]:.3f} '
      f'| {row["accuracy"]:.1%} | {minutes} |'
    )
  return '\n'.join(lines) + '\n'


def curves(runs: dict[str, list[dict[str, float]]]) -> Figure:
  """Each curve of CURVES, a line for each run."""
  figure = Figure(figsize=(11, 6.5))
  panels = figure.subplots(2, 3).ravel()
  lines = {}
  for axes, (key, title) in zip(panels, CURVES, strict=True):
    for number, (name, rows) in enumerate(runs.items()):
      found = [(r['step'], r[key]) for r in rows if key in r]
      if found:
        (lines[name],) = axes.plot(
          *np.asarray(found).T, color=f'C{number}', linewidth=1
        )
    axes.set(xlabel='steps', title=title)
    axes.grid(alpha=0.25)
    low, high = axes.dataLim.intervaly
    if low > 0 and high > 20 * low:
      axes.set_yscale('log')
  figure.legend(lines.values(), lines, loc='lower center', ncols=4)
  figure.tight_layout(rect=(0, 0.09, 1, 1))
  return figure


def main() -> None:
  """Trains, draws, measures, writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--teacher', required=True)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--data', default='runs/data')
  parser.add_argument('--num', type=int, default=10_000)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--students', default=';'.join(STUDENTS))
  parser.add_argument('--only_train', action='store_true')
  args = parser.parse_args()
  features = args.out / 'features'
  measure = Measure(features, args.data)
  keys = [f'--config.data.dir={args.data}',
          f'--config.eval.extractor=classifier:{features}',
          "--config.eval.metrics=('fd',)",
          '--config.eval.every_images=8000']  # fmt: skip
  rows, sheets, logs = [], [], {}

  for name in args.students.split(';'):
    argument, _, guidance = name.partition(' ')
    method, steps = argument.split(',')
    slug = f'{method}{steps}{guidance}'.translate({ord(c): '-' for c in ':,'})
    given = [f'--config.distill.guidance={guidance}'] if guidance else []
    figures, minutes = [], []
    for seed in range(args.seeds):
      place = args.out / f'{slug}-{seed}'
      watch = place.parent / f'{place.name}.seconds'
      if not watch.exists():
        continued = place.exists()  # then its time is not known
        seconds = command(
          'distill', f'--config=configs/distill/digits.py:{argument}',
          f'--teacher={args.teacher}', f'--workdir={place}',
          f'--config.seed={seed}', *keys, *given,
        )  # fmt: skip
        watch.write_text('nan' if continued else f'{seconds:.1f}')
      minutes.append(float(watch.read_text()) / 60)
      if args.only_train:
        continue
      source = (f'--workdir={place}',)
      if method == 'flash':
        source = (f'--folder={place}/student',)
      drawn = place / 'drawn'
      figures.append(measure(source, drawn, args.num, seed))
      if not seed:
        if method == 'flash':  # of its stages the one that is like the others
          logs[f'{name}, sharing'] = read_metrics(place / '2-sharing')
        else:
          logs[name] = read_metrics(place)
        kinds = [part.partition(':')[0] for part in guidance.split(',')]
        label = f'{argument}\n{" + ".join(kinds)}'
        sheets.append((label, _images(drawn)))
    if figures:
      rows.append(row_of(name, int(steps), figures))
      rows[-1]['minutes'] = float(np.mean(minutes))
  if args.only_train:
    return

  for steps, guidance in TEACHER:
    drawn = args.out / f'teacher-{guidance}-{steps}'.replace(':', '-')
    figures = [
      measure(
        (f'--workdir={args.teacher}', f'--guidance={guidance}',
         f'--config.sample.steps={steps}'),
        drawn.with_name(f'{drawn.name}-{seed}'), args.num, seed,
      )
      for seed in range(args.seeds)
    ]  # fmt: skip
    nfe = steps * (2 if 'cfg' in guidance else 1)
    drawn_in = f'{steps} step{"s" * (steps > 1)}'
    rows.append(row_of(f'teacher, {guidance}, {drawn_in}', nfe, figures))
    first = drawn.with_name(f'{drawn.name}-0')
    sheets.append((f'{guidance}\n{drawn_in}', _images(first)))
  rows.sort(key=lambda row: (-row['nfe'], row['fd']))
  text = table(rows)
  write_bytes(args.out / 'table.md', text.encode())
  write_json(args.out / 'table.json', {'rows': rows})
  pictures.write_figure(args.out / 'curves.png', curves(logs))
  pictures.write_png(
    args.out / 'samples.png', pictures.sheet(sheets, 20, scale=4)
  )
  print(text)


def _images(folder: pathlib.Path, count: int = 40) -> np.ndarray:
  with np.load(folder / 'samples.npz') as stored:
    return stored['arr_0'][:count]


if __name__ == '__main__':
  main()
