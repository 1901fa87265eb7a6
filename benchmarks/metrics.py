"""Measures the time and memory that the metrics of an evaluation take.

  python -m benchmarks.metrics
  python -m benchmarks.metrics --parts=frechet

Features are random, since the time does not depend on their values. Each part
runs in a separate process. The peak memory includes the features and JAX.
"""

import multiprocessing
import resource
import statistics
import time
from concurrent import futures
from unittest import mock

import numpy as np

from benchmarks import timing
from dit.sharding import MeshConfig, make_mesh
from evaluate.extractor import inception_extractor
from evaluate.frechet import Moments, frechet_distance
from evaluate.precision_recall import precision_recall

FEATURES = 2048  # outputs of Inception's last pooling
GIB = 1024**3
IMAGES, ROUNDS = 32, 7  # batch size and number of timings, for Inception


def features(seed: int, count: int) -> np.ndarray:
  return np.random.default_rng(seed).random((count, FEATURES), np.float32)


def frechet() -> dict[str, float]:
  """Times the moments of 50,000 images, and the distance to a reference."""
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
  """Times 10,000 images against 10,000 images, including compilation."""
  reference, sample = features(0, 10_000), features(1, 10_000)
  figures = {}
  for name, half in (('seconds', False), ('half_seconds', True)):
    start = time.perf_counter()
    precision_recall(reference, sample, float16=half)
    figures[name] = time.perf_counter() - start
  return figures


def inception() -> dict[str, float]:
  """Alternately times our Inception and torch-fidelity's, for 256 x 256 images.

  This part needs torch and torch-fidelity (requirements-torch.txt). The weights
  are random, since the time does not depend on the weights.
  """
  import torch
  from torch_fidelity.feature_extractor_inceptionv3 import (
    FeatureExtractorInceptionV3,
  )

  module = FeatureExtractorInceptionV3.__module__
  with (  # skips the download of weights
    mock.patch(f'{module}.load_state_dict_from_url'),
    mock.patch.object(FeatureExtractorInceptionV3, 'load_state_dict'),
  ):
    peer = FeatureExtractorInceptionV3('x', ['2048', 'logits_unbiased'])
  tensors = {k: v.numpy() for k, v in peer.state_dict().items()}
  extractor = inception_extractor(tensors, about={})
  images = np.random.default_rng(0).integers(
    0, 256, (IMAGES, 256, 256, 3), dtype=np.uint8
  )
  mesh = make_mesh(MeshConfig())
  batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

  def run_ours():
    return next(extractor([images], mesh, IMAGES)).pool

  def run_theirs():
    with torch.no_grad():
      return peer(batch)[0].numpy()

  expected = run_theirs()
  distance = np.abs(run_ours() - expected).max() / np.abs(expected).max()
  runs = {'ours': run_ours, 'theirs': run_theirs}
  seconds = {
    name: statistics.median(times)
    for name, times in timing.in_turns(runs, ROUNDS, turn=0).items()
  }
  return {
    'images_per_second': IMAGES / seconds['ours'],
    'torch_fidelity_images_per_second': IMAGES / seconds['theirs'],
    'ratio': seconds['theirs'] / seconds['ours'],
    'relative_difference': float(distance),
  }


PARTS = {
  'inception': inception,
  'frechet': frechet,
  'precision_recall': precision_and_recall,
}


def measure(name: str) -> dict[str, float]:
  """Returns the figures of a part, including this process's peak memory."""
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
