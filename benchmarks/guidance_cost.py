"""What each guidance method costs: time against unguided sampling.

  python -m benchmarks.guidance_cost
  python -m benchmarks.guidance_cost --config=configs/digits.py

Samples one batch with every method in turns, so that all see the same machine,
and prints the median seconds, the ratio to no guidance, and NFE over steps:
the ratio that the arithmetic asks for. The weights are random; time does not
depend on them. Without --config the network is 28 blocks of width 128 on 64
tokens, batch 32, Euler with 20 steps.
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

METHODS = ('none', 'ig:1.4', 'cfg:1.35', 'cfg:1.35@0-0.7', 'cfg:1.35,s2:1.25',
           'ig:1.4,cfg:1.35@0-0.7')  # fmt: skip
SMALL = ('model.depth=28', 'model.width=128', 'model.num_heads=4',
         'model.size=16', 'sample.batch_size=32', 'sample.solver=euler',
         'sample.steps=20', 'sample.last=0.0')  # fmt: skip

if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', help='(the small network above)')
  parser.add_argument('--methods', nargs='+', default=METHODS)
  parser.add_argument('--rounds', type=int, default=5)
  args, extra = parser.parse_known_args()
  overrides = [word.removeprefix('--config.') for word in extra]
  config = settings.load_config(args.config or 'configs/base.py')
  changes = [*(() if args.config else SMALL), *overrides]
  experiment = build(settings.override(config, changes).to_dict())
  network, sampling = experiment.model, experiment.sample
  params = jax.jit(lambda: model.init(network, jax.random.key(0)))()
  denoiser = model.bind(network, params)
  path = path_named(experiment.objective.path)
  solver, grid = sampling.make_solver(path), sampling.grid(path)
  index = np.arange(sampling.batch_size, dtype=np.int32)

  def run(text):
    start = time.perf_counter()
    x, _ = sampler.sample(
      denoiser,
      parse(text),
      index % network.num_classes,
      index,
      grid,
      jnp.uint32(0),
      solver=solver,
      shape=network.latent_shape,
      path=path,
    )
    x.block_until_ready()
    return time.perf_counter() - start

  times = {text: [] for text in args.methods}
  for number in range(args.rounds + 1):
    for text in args.methods:
      run(text)  # not timed: the memory that the method before has left
      seconds = run(text)
      if number:  # the first round compiles
        times[text].append(seconds)
  base = statistics.median(times[args.methods[0]])
  rows = []
  print('| method | s / batch | ratio | NFE / steps |\n|---|---|---|---|')
  for text, values in times.items():
    median = statistics.median(values)
    nfe = sampler.nfe(parse(text), denoiser, solver, grid, 0, path=path)
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
