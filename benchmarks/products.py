"""Compares matrix products of a train step in XLA and PyTorch on the CPU.

  python -m benchmarks.products configs/sit.py:S/2,ig \
    --config.train.batch_size=8

Each linear layer of a block, with x (T, inputs) and K (inputs, outputs), has

  y = x K,   dx = dy K^T,   dK = x^T dy

in GFLOP/s, for both libraries in turns on the same arrays. The last lines are
the time of all blocks' products at these rates, a lower bound for a step.
requirements-torch.txt installs PyTorch.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from dit.config import DiTConfig


def layers(config: DiTConfig) -> dict[str, tuple[int, int]]:
  """Returns inputs and outputs of the linear layers on tokens."""
  width, hidden = config.width, config.hidden
  parts = 2 if config.mlp == 'swiglu' else 1
  return {
    'qkv': (width, 3 * width),
    'proj': (width, width),
    'fc1': (width, parts * hidden),
    'fc2': (hidden, width),
  }


def products(tokens: int, inputs: int, outputs: int) -> dict[str, Callable]:
  """Returns functions for the three products, in JAX and in PyTorch."""
  rng = np.random.default_rng(0)
  x, kernel, dy = (
    rng.standard_normal(shape, np.float32)
    for shape in ((tokens, inputs), (inputs, outputs), (tokens, outputs))
  )
  ours = {
    'y': (lambda x, k: x @ k, x, kernel),
    'dx': (lambda dy, k: dy @ k.T, dy, kernel),
    'dK': (lambda x, dy: x.T @ dy, x, dy),
  }
  # PyTorch stores K^T and its gradient.
  turned = np.ascontiguousarray(kernel.T)
  theirs = {
    'y': (lambda x, k: x @ k.T, x, turned),
    'dx': (lambda dy, k: dy @ k, dy, turned),
    'dK': (lambda x, dy: dy.T @ x, x, dy),
  }

  def in_jax(function, *args):
    function, args = jax.jit(function), [jax.device_put(a) for a in args]
    return lambda: function(*args).block_until_ready()

  import torch

  def in_torch(function, *args):
    args = [torch.from_numpy(a) for a in args]
    return lambda: function(*args)

  made = {}
  for name in ours:
    made[f'{name} ours'] = in_jax(*ours[name])
    made[f'{name} torch'] = in_torch(*theirs[name])
  return made


def main() -> None:
  parser = timing.parser(__doc__, 'products')
  parser.add_argument('config', nargs='?', default='configs/digits.py')
  parser.add_argument('--rounds', type=int, default=5)
  args, given = timing.parse(parser)
  jax.config.update('jax_platforms', 'cpu')  # PyTorch also uses the CPU
  experiment = timing.experiment_of(args.config, given)
  model = experiment.model
  tokens = experiment.train.batch_size * model.num_tokens
  rows: list[dict[str, Any]] = []
  total = {'ours': 0.0, 'torch': 0.0}
  for name, (inputs, outputs) in layers(model).items():
    times = timing.in_turns(
      products(tokens, inputs, outputs), args.rounds, turn=0.2
    )
    flops = 2 * tokens * inputs * outputs
    row: dict[str, Any] = {'layer': name, 'inputs': inputs, 'outputs': outputs}
    for key, each in times.items():
      seconds = statistics.median(each)
      row[f'{key} GFLOP/s'] = flops / seconds / 1e9
      total[key.split()[1]] += model.depth * seconds
    rows.append(row)
  timing.publish(
    args.json,
    rows,
    **{f'all blocks, {key}, s': value for key, value in total.items()},
  )


if __name__ == '__main__':
  main()
