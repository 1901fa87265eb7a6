"""Trains on the digits with several seeds, and compares guidance methods.

  python -m experiments.digits_seeds --seeds=3 --workdir=runs/seeds

A seed determines initialization, data order, noise and samples. The table shows
each method's figures and gain, averaged over seeds. The gain is the distance
without guidance minus the distance of the method, divided by the standard error
of this difference. The error comes from a bootstrap over pairs of images that
have the same label and noise.
"""

import argparse
import json
import pathlib

import numpy as np

import main
from core import markdown

COLUMNS = (
  'method', 'features', 'pixels', 'accuracy',
  'gain, features (each seed)', 'gain, pixels (each seed)',
)  # fmt: skip
METHODS = ('none', 'cfg:1.2', 'ig:1.5', 's2:1.5', 'ig:1.5,cfg:1.2')


def run(seed: int, folder: pathlib.Path, extra: list[str]) -> list[dict]:
  """Trains a network and compares methods; returns the rows of compare.json."""
  workdir = f'--workdir={folder / f"seed_{seed}"}'
  commands = (
    ['train', workdir, f'--config.seed={seed}', '--config=configs/digits.py'],
    [
      'compare',
      workdir,
      f'--seed={seed}',
      *(f'--guidance={text}' for text in METHODS),
    ],
  )
  for command in commands:
    keys = extra if command[0] == 'compare' else []
    if main.main([*command, *keys]):
      raise SystemExit(1)
  result = folder / f'seed_{seed}' / 'compare.json'
  return json.loads(result.read_text())['rows']


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--workdir', default='runs/seeds')
  args, extra = parser.parse_known_args()
  tables = [
    run(seed, pathlib.Path(args.workdir), extra) for seed in range(args.seeds)
  ]
  lines = []
  for k, row in enumerate(tables[0]):
    mean = {
      name: np.mean([table[k][name] for table in tables])
      for name in ('features', 'features_se', 'pixels', 'pixels_se', 'accuracy')
    }
    lines.append(
      [
        row['method'],
        f'{mean["features"]:.2f} ± {mean["features_se"]:.2f}',
        f'{mean["pixels"]:.3f} ± {mean["pixels_se"]:.3f}',
        f'{mean["accuracy"]:.1%}',
      ]
    )
    for space in ('features', 'pixels'):
      gains = [table[k][f'gain_{space}'] for table in tables]
      cell = ''
      if k and None not in gains:
        each = ', '.join(f'{value:+.1f}' for value in gains)
        cell = f'{np.mean(gains):+.1f} se ({each})'
      lines[-1].append(cell)
  print(f'\n{markdown.table(COLUMNS, lines)}')
