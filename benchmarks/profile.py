"""Measures the time of each kind of operation in a train step on the CPU.

  python -m benchmarks.profile configs/sit.py:S/2,ig --torch \
    --config.train.batch_size=8

Sums the durations of events in JAX's profiler, and averages over a few steps.
Where threads run in parallel, the sum exceeds the time of the step. The sum
misses the part of the weight gradients that XLA finishes on other threads.
--torch also profiles a PyTorch network of the same shape with PyTorch's
profiler (requirements-torch.txt).
"""

import collections
import gzip
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks import timing
from benchmarks.train_step import compiled_step, random_batch

STEPS = 3
# Kinds of operations, each with a pattern. An operation has the first kind
# whose pattern matches its text in `operations`. Attention is recognized by
# its einsum subscripts, shapes (B, H, N, N), and `ynn` fusions with four axes.
KINDS = (
  ('attention', r'bhn|bhm|\[\d+,\d+,(\d+),\1\]|^ynn\S* \[\d+(,\d+){3}\]'),
  ("the scan's stacks: filled, sliced, written",
   r'dynamic[-_](update[-_])?(index|slice)'
   r'|^(wrapped_)?broadcast[.\d]* \[\d+(,\d+){2,}\]'),
  ('products of layers', r'dot'),
  ('copies and transposes', r'copy|transpose_'),
  ('elementwise, sums, optimizer', r''),
)  # fmt: skip
# Kinds of operations in PyTorch, which has no scan.
THEIRS = (
  (KINDS[0][0], r'scaled_dot_product'),
  (KINDS[2][0], r'^aten::(add)?mm$'),
  (KINDS[3][0], r'^aten::(copy_|cat|fill_)$'),
  (KINDS[4][0], r''),
)
_OPERATION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = \w+(\[[\d,]*\])')
_SOURCE = re.compile(r'op_name="([^"]*)"')


def operations(text: str) -> dict[str, str]:
  """Returns a text (name, shape, source) for each operation, by its name."""
  texts = {}
  for line in text.splitlines():
    if match := _OPERATION.match(line):
      source = _SOURCE.search(line)
      words = (*match.groups(), source[1] if source else '')
      texts.setdefault(match[1], ' '.join(words))
  return texts


def kind_of(operation: str, kinds: Sequence[tuple[str, str]] = KINDS) -> str:
  return next(name for name, word in kinds if re.search(word, operation))


def of_torch(run: Callable[[], Any]) -> dict[str, float]:
  """Returns the seconds per step of each kind of operation in PyTorch."""
  from torch import profiler

  run()
  with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as profile:
    for _ in range(STEPS):
      run()
  kinds: dict[str, float] = collections.Counter()
  for event in profile.key_averages():
    kinds[kind_of(event.key, THEIRS)] += event.self_cpu_time_total / 1e6 / STEPS
  return kinds


def events(folder: pathlib.Path) -> dict[str, float]:
  """Returns the total seconds of each operation in a trace, by name."""
  (path,) = folder.rglob('*.trace.json.gz')
  with gzip.open(path) as file:
    trace = json.load(file)['traceEvents']
  seconds: dict[str, float] = collections.Counter()
  for event in trace:
    if event.get('ph') == 'X':
      seconds[event['name']] += event['dur'] / 1e6
  return seconds


def main() -> None:
  parser = timing.parser(__doc__, 'profile')
  parser.add_argument('config', nargs='?', default='configs/digits.py')
  parser.add_argument('--torch', action='store_true')
  args, changes = timing.parse(parser)
  experiment = timing.experiment_of(args.config, changes)
  state, compiled, shapes, _ = compiled_step(experiment)
  batch, key = random_batch(shapes), jax.random.key(0)
  for _ in range(2):
    state, _ = jax.block_until_ready(compiled(state, batch, key))
  with tempfile.TemporaryDirectory() as folder:
    begin = time.perf_counter()
    with jax.profiler.trace(folder):
      for _ in range(STEPS):
        state, _ = jax.block_until_ready(compiled(state, batch, key))
      wall = (time.perf_counter() - begin) / STEPS
    seconds = events(pathlib.Path(folder))
  table = operations(compiled.as_text())
  costs = {
    table[name]: span / STEPS for name, span in seconds.items() if name in table
  }
  kinds: dict[str, float] = collections.Counter()
  for name, span in costs.items():
    kinds[kind_of(name)] += span
  peers = {}
  if args.torch:
    from benchmarks import torch_dit

    peers = of_torch(torch_dit.train_step(experiment, batch))
  rows = []
  for name, span in sorted(kinds.items(), key=lambda pair: -pair[1]):
    rows.append({'what': name, 'ms': 1e3 * span})
    if peers:
      rows[-1]['torch ms'] = 1e3 * peers.get(name, 0.0)
  timing.publish(args.json, rows, **{'step, ms': 1e3 * wall})


if __name__ == '__main__':
  main()
