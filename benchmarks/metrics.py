"""Measures the time and memory that the metrics of an evaluation take.

  python -m benchmarks.metrics
  python -m benchmarks.metrics --parts=frechet

Features are random, since the time does not depend on their values. Each part
runs in a separate process. The peak memory includes the features and JAX.
"""

import multiprocessing
import resource
import time
from concurrent import futures

import numpy as np

from benchmarks import timing
from evaluate.frechet import Moments, frechet_distance
from evaluate.precision_recall import precision_recall

FEATURES = 2048  # width of Inception's pooled features
GIB = 1024**3


def features(seed: int, count: int) -> np.ndarray:
  return np.random.default_rng(seed).random((count, FEATURES), np.float32)


def frechet() -> dict[str, float]:
  """Times the moments of 50,000 images, and then the Frechet distance."""
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
  """Times precision and recall of 10,000 images, including compilation."""
  reference, sample = features(0, 10_000), features(1, 10_000)
  figures = {}
  for name, half in (('seconds', False), ('half_seconds', True)):
    start = time.perf_counter()
    precision_recall(reference, sample, float16=half)
    figures[name] = time.perf_counter() - start
  return figures


PARTS = {
  'frechet': frechet,
  'precision_recall': precision_and_recall,
}


def measure(name: str) -> dict[str, float]:
  """Runs one of PARTS; returns times and the peak memory of this process."""
  figures = PARTS[name]()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return figures | {'peak_gib': peak / GIB}


if __name__ == '__main__':
  parser = timing.parser(__doc__, 'metrics')
  parser.add_argument('--parts', nargs='+', choices=PARTS, default=[*PARTS])
  args = parser.parse_args()
  rows = []
  for name in args.parts:
    with futures.ProcessPoolExecutor(
      1, mp_context=multiprocessing.get_context('spawn')
    ) as pool:
      figures = pool.submit(measure, name).result()
    for figure, value in figures.items():
      rows.append({'part': name, 'figure': figure, 'value': value})
  timing.publish(args.json, rows)
