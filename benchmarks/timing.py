"""Shared code of the benchmarks: timing, flags and results.

Speed varies between machines and days. Therefore, rates are relative to a large
matrix product in the same run, and programs take turns if they are compared.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from core import markdown
from train.config_file import load_config, override
from train.experiment import Experiment, build
from train.workdir import environment


def in_turns(
  runs: Mapping[str, Callable[[], Any]], rounds: int, turn: float = 0.5
) -> dict[str, list[float]]:
  """Times functions in turns; returns the seconds of each call, by name.

  Every function has `rounds` turns of at least `turn` seconds, and must return
  only when its work is done. The first call of a turn is not timed: the threads
  and memory of the previous function may still affect that call.
  """
  seconds = {name: [] for name in runs}
  for _ in range(rounds):
    for name, run in runs.items():
      run()
      end = time.perf_counter() + turn
      while True:
        begin = time.perf_counter()
        run()
        seconds[name].append(time.perf_counter() - begin)
        if time.perf_counter() >= end:
          break
  return seconds


def matmul_peak(dtype: str) -> float:
  """Returns the best FLOP/s of a device in a large square matrix product."""
  size, count = (2048, 4) if jax.default_backend() == 'cpu' else (8192, 16)
  keys = jax.random.split(jax.random.key(0))
  x, w = (jax.random.normal(key, (size, size), dtype) for key in keys)

  @jax.jit
  def products(x):
    scale = jnp.asarray(size**-0.5, dtype)
    return jax.lax.fori_loop(0, count, lambda _, x: scale * (x @ w), x)

  times = in_turns({'it': lambda: products(x).block_until_ready()}, 5)['it']
  return 2 * size**3 * count / min(times)


def experiment_of(spec: str, given: Sequence[str]) -> Experiment:
  """Builds an experiment from a config file and KEY=VALUE assignments."""
  return build(override(load_config(spec), given).to_dict())


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
  """Returns a parser with the flags that all benchmarks share."""
  result = argparse.ArgumentParser(
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  result.add_argument(
    '--json',
    type=pathlib.Path,
    default=pathlib.Path(
      time.strftime(f'runs/benchmarks/{name}-%m%d-%H%M%S.json')
    ),
    help='file for figures, device and versions (default: %(default)s)',
  )
  return result


def parse(
  parser: argparse.ArgumentParser,
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the flags, and the text KEY=VALUE of each --config.KEY=VALUE."""
  args, extra = parser.parse_known_args()
  for word in extra:
    if not word.startswith('--config.') or '=' not in word:
      parser.error(f'{word!r} is neither a flag nor --config.KEY=VALUE')
  return args, [word.removeprefix('--config.') for word in extra]


def publish(
  path: pathlib.Path, rows: Sequence[Mapping[str, Any]], **extra: Any
) -> None:
  """Prints the rows as a Markdown table, and writes them as JSON."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  lines = [[_text(row.get(key)) for key in columns] for row in rows]
  print(markdown.table(columns, lines), end='')
  for key, value in extra.items():
    print(f'{key}: {_text(value)}')
  path.parent.mkdir(parents=True, exist_ok=True)
  metadata = environment() | {'cores': len(os.sched_getaffinity(0))}
  if importlib.util.find_spec('torch'):
    metadata['packages']['torch'] = importlib.metadata.version('torch')
  record = {**metadata, **extra, 'rows': list(rows)}
  path.write_text(json.dumps(record, indent=2) + '\n')


def _text(value: Any) -> str:
  if value is None:
    return ''
  return f'{value:,.4g}' if isinstance(value, float) else str(value)
