"""What the metrics of an evaluation cost, against their limits.

  python -m benchmarks.metrics
  python -m benchmarks.metrics --parts=frechet

Features are random numbers, as many as of an evaluation: time does not depend
on them. Each part runs in a process of its own, so that its peak memory, which
includes that of its features and of JAX, is its own.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from unittest import mock

import numpy as np

from benchmarks import timing
from dit.sharding import MeshConfig, make_mesh
from evaluate.extractor import inception_extractor
from evaluate.frechet import Moments, frechet_distance
from evaluate.precision_recall import precision_recall

FEATURES = 2048  # of Inception's last pooling
GIB = 1024**3
IMAGES, ROUNDS = 32, 7  # of Inception: a batch, timed so often


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
  """Returns seconds for 10,000 images against 10,000, with compilation."""
  reference, sample = features(0, 10_000), features(1, 10_000)
  figures = {}
  for name, half in (('seconds', False), ('half_seconds', True)):
    start = time.perf_counter()
    precision_recall(reference, sample, float16=half)
    figures[name] = time.perf_counter() - start
  return figures


def inception() -> dict[str, float]:
  """Ours against torch-fidelity's, in turns; on 256 x 256 images, uint8.

  Needs torch and torch-fidelity (requirements-torch.txt). The weights are
  random numbers: time does not depend on them.
  """
  import torch
  from torch_fidelity.feature_extractor_inceptionv3 import (
    FeatureExtractorInceptionV3,
  )

  module = FeatureExtractorInceptionV3.__module__
  with (  # in place of a download
    mock.patch(f'{module}.load_state_dict_from_url'),
    mock.patch.object(FeatureExtractorInceptionV3, 'load_state_dict'),
  ):
    theirs = FeatureExtractorInceptionV3('x', ['2048', 'logits_unbiased'])
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  ours = inception_extractor(tensors, about={})
  images = np.random.default_rng(0).integers(
    0, 256, (IMAGES, 256, 256, 3), dtype=np.uint8
  )
  mesh = make_mesh(MeshConfig())
  batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

  def run_ours():
    return next(ours([images], mesh, IMAGES)).pool

  def run_theirs():
    with torch.no_grad():
      return theirs(batch)[0].numpy()

  expected = run_theirs()
  distance = np.abs(run_ours() - expected).max() / np.abs(expected).max()
  rates = {run_ours: [], run_theirs: []}
  for _ in range(ROUNDS):
    for run, found in rates.items():
      start = time.perf_counter()
      run()
      found.append(IMAGES / (time.perf_counter() - start))
  median = {run: statistics.median(found) for run, found in rates.items()}
  return {
    'images_per_second': median[run_ours],
    'torch_fidelity_images_per_second': median[run_theirs],
    'ratio': median[run_ours] / median[run_theirs],
    'relative_difference': float(distance),
  }


# Part: what it runs, and the least and most of its figures.
PARTS = {
  'inception': (inception, {'ratio': (1, float('inf'))}),
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
  parser = timing.parser(__doc__, 'metrics')
  parser.add_argument('--parts', nargs='+', choices=PARTS, default=None)
  parser.add_argument('--alone', choices=PARTS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.alone:
    print(json.dumps(measure(args.alone)))
    sys.exit()
  parts = args.parts or [*PARTS]
  if not args.parts and not importlib.util.find_spec('torch_fidelity'):
    print('No torch-fidelity here (requirements-torch.txt): no inception.')
    parts.remove('inception')
  rows = []
  for name in parts:
    command = [sys.executable, '-m', 'benchmarks.metrics', f'--alone={name}']
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    for figure, value in json.loads(result.stdout).items():
      row = {'part': name, 'figure': figure, 'value': value}
      if figure in PARTS[name][1]:
        least, most = PARTS[name][1][figure]
        row['limit'] = f'{least} to {most}'
        row['verdict'] = 'kept' if least <= value <= most else 'MISSED'
      rows.append(row)
  timing.publish(args.json, rows)
