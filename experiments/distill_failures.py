"""What the curves of a distillation look like when it goes wrong.

  python -m experiments.distill_failures --teacher=runs/demo \
    --out=runs/failures --features=runs/distilled/features

Trains one student of the digits for each of FAILURES, with one seed, and writes
curves.png. The classifier is the one that experiments.distill_digits trained.
"""

import argparse
import pathlib

from experiments.distill_digits import command, curves
from sample import pictures
from train.metrics_log import read_metrics

FAILURES = {
  'healthy': (),
  'CA alone': ('distill.regularizer=none', 'distill.guidance=cfg:3'),
  'alpha too large': ('distill.guidance=cfg:3',),
  'fake too slow': ('distill.fake_lr=1e-5',),
  'student too fast': ('optimizer.lr=2e-2',),
}


def main() -> None:
  """Trains what is not there, and draws."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--teacher', required=True)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--features', required=True)
  parser.add_argument('--data', default='runs/data')
  parser.add_argument('--steps', type=int, default=400)
  args = parser.parse_args()
  logs = {}
  for name, changes in FAILURES.items():
    place = args.out / name.replace(' ', '-')
    command(
      'distill', '--config=configs/distill/digits.py:hybrid,1',
      f'--teacher={args.teacher}', f'--workdir={place}',
      f'--config.data.dir={args.data}',
      f'--config.train.images={64 * args.steps}',
      f'--config.eval.extractor=classifier:{args.features}',
      "--config.eval.metrics=('fd',)", '--config.eval.every_images=3200',
      *(f'--config.{change}' for change in changes),
    )  # fmt: skip
    logs[name] = read_metrics(place)
  pictures.write_figure(args.out / 'curves.png', curves(logs))


if __name__ == '__main__':
  main()
