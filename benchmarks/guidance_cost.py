"""What each guidance method costs: time against unguided sampling.

  python -m benchmarks.guidance_cost

Samples one batch with every method in turns, so that all see the same machine,
and prints the median seconds, the ratio to no guidance, and NFE over steps:
the ratio that the arithmetic asks for. The weights are random; time does not
depend on them.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from dit import model
from dit.path import path_named
from guidance import parse
from sample import sampler
from train import settings
from train.experiment import build

if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/digits.py')
  parser.add_argument('--methods', nargs='+', help='(those of the config)')
  parser.add_argument('--rounds', type=int, default=9)
  args, extra = parser.parse_known_args()
  overrides = [word.removeprefix('--config.') for word in extra]
  config = settings.override(settings.load_config(args.config), overrides)
  experiment = build(config.to_dict())
  network, sampling = experiment.model, experiment.sample
  methods = args.methods or experiment.compare.methods
  params = jax.jit(lambda: model.init(network, jax.random.key(0)))()
  denoiser = model.bind(network, params)
  solver = sampling.make_solver(path_named(experiment.objective.path))
  grid = sampling.grid()
  index = np.arange(sampling.batch_size, dtype=np.int32)

  def run(text):
    start = time.perf_counter()
    sampler.sample(
      denoiser,
      jax.tree.map(jnp.float32, parse(text)),
      index % network.num_classes,
      index,
      grid,
      jnp.uint32(0),
      solver=solver,
      shape=network.latent_shape,
    ).block_until_ready()
    return time.perf_counter() - start

  times = {text: [] for text in methods}
  for number in range(args.rounds + 1):
    for text in methods:
      run(text)  # not timed: the memory that the method before has left
      seconds = run(text)
      if number:  # the first round compiles
        times[text].append(seconds)
  base = statistics.median(times[methods[0]])
  rows = []
  print('| method | s / batch | ratio | NFE / steps |\n|---|---|---|---|')
  for text, values in times.items():
    median = statistics.median(values)
    nfe = sampler.nfe(parse(text), solver, grid, network.depth, 0)
    rows.append(
      {
        'method': text,
        'seconds': round(median, 3),
        'ratio': round(median / base, 3),
        'ideal': round(nfe / sampling.steps, 3),
      }
    )
    row = rows[-1]
    print(f'| {text} | {row["seconds"]} | {row["ratio"]} | {row["ideal"]} |')
  print(
    json.dumps(
      {
        'device': jax.devices()[0].device_kind,
        'jax': jax.__version__,
        'batch_size': sampling.batch_size,
        'rows': rows,
      }
    )
  )
