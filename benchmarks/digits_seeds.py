"""Does guidance pay on the digits? Several seeds, trained and compared.

  python -m benchmarks.digits_seeds --seeds=3 --workdir=runs/seeds

Trains the default config once for each seed (of initialisation, data order,
noise and samples) and prints, for each method, the mean over the seeds of its
figures, and of its gain over no guidance: the fall of the distance over the
standard error of the difference of one seed's two figures.
"""

import argparse
import json
import pathlib

import numpy as np

import main


def run(seed: int, folder: pathlib.Path, extra: list[str]) -> list[dict]:
  """Trains and compares one seed; returns the rows of compare.json."""
  workdir = f'--workdir={folder / f"seed_{seed}"}'
  commands = (
    ['train', workdir, f'--config.seed={seed}', '--config=configs/digits.py'],
    ['compare', workdir, f'--seed={seed}', '--config.compare.sweep_scales=()'],
  )
  for command in commands:
    keys = extra if command[0] == 'compare' else []
    if main.main([*command, *keys]):
      raise SystemExit(1)
  result = folder / f'seed_{seed}' / 'compare.json'
  return json.loads(result.read_text())['rows']


def gain(rows: list[dict], row: dict, space: str) -> float:
  """Fall of the distance from the first row, in standard errors."""
  first, mine = rows[0]['scores'], row['scores']
  error = np.hypot(first[f'{space}_se'], mine[f'{space}_se'])
  return (first[space] - mine[space]) / error


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--workdir', default='runs/seeds')
  args, extra = parser.parse_known_args()
  tables = [
    run(seed, pathlib.Path(args.workdir), extra) for seed in range(args.seeds)
  ]
  print(
    '\n| method | features | pixels | accuracy | gain, features (each seed) |'
    ' gain, pixels (each seed) |\n|---|---|---|---|---|---|'
  )
  for k, row in enumerate(tables[0]):
    scores = [table[k]['scores'] for table in tables]
    mean = {name: np.mean([s[name] for s in scores]) for name in scores[0]}
    cells = [
      row['method'],
      f'{mean["features"]:.2f} ± {mean["features_se"]:.2f}',
      f'{mean["pixels"]:.3f} ± {mean["pixels_se"]:.3f}',
      f'{mean["accuracy"]:.1%}',
    ]
    for space in ('features', 'pixels'):
      gains = [gain(table, table[k], space) for table in tables]
      each = ', '.join(f'{value:+.1f}' for value in gains)
      cells.append(f'{np.mean(gains):+.1f} se ({each})' if k else '')
    print('| ' + ' | '.join(cells) + ' |')
