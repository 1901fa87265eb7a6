"""Compares the rate of the train step with the machine's peak and PyTorch.

  python -m benchmarks.train_step --torch
  python -m benchmarks.train_step configs/sit.py:S/2,ig --torch \
    --config.train.batch_size=8
  python -m benchmarks.train_step configs/sit.py:B/2,ig configs/sit.py:XL/2,ig \
    --vary train.batch_size 128 256 --vary model.remat none full

Times whole steps (sampling latents, forward, backward, clipping, optimizer and
EMA) on a fixed batch, for each config and each combination of --vary values.
MFU is the model's FLOP/s divided by the FLOP/s of a large matrix product in the
same precision. A multiply-add counts as 2 FLOPs, and the backward pass as two
forward passes; recomputation is not counted. --torch adds a PyTorch network of
the same shape, on the CPU (requirements-torch.txt).
"""

import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from commands import dry_run
from dit.sharding import make_mesh
from train import loop
from train.experiment import Experiment
from train.progress import training_flops


def random_batch(shapes: dict[str, Any]) -> dict[str, jax.Array]:
  rng = np.random.default_rng(0)

  def draw(leaf):
    if np.issubdtype(leaf.dtype, np.floating):
      values = rng.standard_normal(leaf.shape, np.float32)
    else:
      values = rng.integers(0, 10, leaf.shape)
    return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

  return jax.tree.map(draw, shapes)


def compiled_step(
  experiment: Experiment,
) -> tuple[Any, jax.stages.Compiled, dict[str, Any], dict[str, float]]:
  """Returns state, compiled step, batch shapes, and costs of compilation."""
  mesh = make_mesh(experiment.mesh)
  with jax.set_mesh(mesh):
    step, abstract, shapes, key = dry_run.train_program(experiment, mesh)
    _, optimizer, _ = loop.plan(experiment, mesh)
    state = loop.fresh(experiment, optimizer, mesh)
    begin = time.perf_counter()
    lowered = step.lower(abstract, shapes, key)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
  memory = compiled.memory_analysis()
  figures = {
    'trace s': middle - begin,
    'compile s': end - middle,
    'GiB': (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30,
  }
  return state, compiled, shapes, figures


def our_step(
  experiment: Experiment,
) -> tuple[Callable[[], float], dict[str, jax.Array], dict[str, float]]:
  """Returns a function for one step, the batch, and the compilation costs."""
  state, compiled, shapes, figures = compiled_step(experiment)
  batch, key = random_batch(shapes), jax.random.key(0)

  def run():
    nonlocal state
    state, metrics = compiled(state, batch, key)
    return float(metrics['loss'])

  return run, batch, figures


def measure(
  experiment: Experiment, peak: float, *, rounds: int, torch: bool
) -> dict[str, Any]:
  try:
    run, batch, costs = our_step(experiment)
    runs = {'ours': run}
    if torch:
      from benchmarks import torch_dit

      runs['torch'] = torch_dit.train_step(experiment, batch)
    for call in runs.values():
      call()
    seconds = timing.in_turns(runs, rounds)
  except RuntimeError as error:  # raised by XLA or cuDNN
    if 'RESOURCE_EXHAUSTED' in str(error):
      return {'ms': 'does not fit'}
    return {'ms': f'failed: {str(error).splitlines()[0]}'}
  median = {name: statistics.median(times) for name, times in seconds.items()}
  size = experiment.train.batch_size
  flops = size * training_flops(experiment) / median['ours']
  figures = {
    'ms': 1e3 * median['ours'],
    'images/s': size / median['ours'],
    'TFLOP/s': flops / 1e12,
    'MFU': flops / (peak * jax.device_count()),
    **costs,
  }
  if torch:
    figures['torch ms'] = 1e3 * median['torch']
    figures['ours / torch'] = median['ours'] / median['torch']
  return figures


def main() -> None:
  parser = timing.parser(__doc__, 'train_step')
  parser.add_argument('configs', nargs='*', default=['configs/digits.py'])
  parser.add_argument('--vary', nargs='+', action='append', default=[],
                      metavar=('KEY', 'VALUE'))  # fmt: skip
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--torch', action='store_true')
  args, changes = timing.parse(parser)
  grid = [[f'{key}={value}' for value in values] for key, *values in args.vary]
  rows, peaks = [], {}
  for spec, choice in itertools.product(args.configs, itertools.product(*grid)):
    experiment = timing.experiment_of(spec, [*changes, *choice])
    dtype = experiment.model.activation_dtype
    if dtype not in peaks:
      peaks[dtype] = timing.matmul_peak(dtype)
    row = {
      'config': spec.removeprefix('configs/'),
      'batch': experiment.train.batch_size,
      'dtype': dtype,
    }
    row |= dict(word.split('=', 1) for word in choice)
    if 'model.attention' in row:  # this machine may use another kernel
      row['model.attention'] = experiment.model.attention_here
    row |= measure(
      experiment, peaks[dtype], rounds=args.rounds, torch=args.torch
    )
    rows.append(row)
    gc.collect()
    jax.clear_caches()
  peaks = {f'peak TFLOP/s {name}': peak / 1e12 for name, peak in peaks.items()}
  timing.publish(args.json, rows, **peaks)
  if any(str(row['ms']).startswith('failed') for row in rows):
    sys.exit(1)


if __name__ == '__main__':
  main()
