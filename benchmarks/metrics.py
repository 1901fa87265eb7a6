"""What the metrics of an evaluation cost, against their limits.

  python -m benchmarks.metrics
  python -m benchmarks.metrics --parts=frechet

Features are random numbers, as many as of an evaluation: time does not depend
on them. Each part runs in a process of its own, so that its peak memory, which
includes that of its features and of JAX, is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import jax
import numpy as np

from sample.metrics.frechet import Moments, frechet_distance
from sample.metrics.manifold import precision_recall

FEATURES = 2048  # of Inception's last pooling
GIB = 1024**3


def features(seed: int, count: int) -> np.ndarray:
  """(count, FEATURES) float32."""
  return np.random.default_rng(seed).random((count, FEATURES), np.float32)


def frechet() -> dict[str, float]:
  """Moments of 50,000 images, and their distance to a reference."""
  reference = Moments.of(features(0, 10_000))
  sample = features(1, 50_000)
  start = time.perf_counter()
  moments = Moments.of(sample)
  middle = time.perf_counter()
  frechet_distance(moments, reference)
  end = time.perf_counter()
  frechet_distance(moments, reference)
  return {
    'seconds': end - start,
    'moments_seconds': middle - start,
    'distance_seconds': end - middle,
    'second_distance_seconds': time.perf_counter() - end,
  }


def precision_and_recall() -> dict[str, float]:
  """Of 10,000 images against 10,000, with compilation."""
  reference, sample = features(0, 10_000), features(1, 10_000)
  figures = {}
  for name, half in (('seconds', False), ('half_seconds', True)):
    start = time.perf_counter()
    precision_recall(reference, sample, half=half)
    figures[name] = time.perf_counter() - start
  return figures


# Part: what it runs, and the least and most of its figures.
PARTS = {
  'frechet': (frechet, {'seconds': (0, 30)}),
  'precision_recall': (
    precision_and_recall,
    {'seconds': (0, 60), 'peak_gib': (0, 2)},
  ),
}


def measure(name: str) -> dict[str, float]:
  """The figures of a part, and the peak memory of this process."""
  figures = PARTS[name][0]()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return figures | {'peak_gib': peak / GIB}


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--parts', nargs='+', choices=PARTS, default=[*PARTS])
  parser.add_argument('--alone', choices=PARTS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.alone:
    print(json.dumps(measure(args.alone)))
    sys.exit()
  rows = {}
  print('| part | figure | value | limit | |\n|---|---|---|---|---|')
  for name in args.parts:
    command = [sys.executable, '-m', 'benchmarks.metrics', f'--alone={name}']
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    rows[name] = json.loads(result.stdout)
    for figure, value in rows[name].items():
      limit, verdict = '', ''
      if figure in PARTS[name][1]:
        least, most = PARTS[name][1][figure]
        limit = f'{least} to {most}'
        verdict = 'kept' if least <= value <= most else 'MISSED'
      print(
        f'| {name} | {figure} | {value:.2f} | {limit} | {verdict} |', flush=True
      )
  about = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__}
  print(json.dumps({**about, 'rows': rows}))
