"""Measures the sampling rate of each guidance method.

  python -m benchmarks.sampling
  python -m benchmarks.sampling configs/sit.py:S/2,ig --steps=10 \
    --batch_size=8 --methods none ig:1.4 cfg:1.5 --torch
  python -m benchmarks.sampling configs/sit.py:XL/2,ig --steps=250 \
    --batch_size=256 --students 1 2 4

The methods take turns to sample a batch. The weights are random, since the time
does not depend on the weights. `of ideal` is the ideal time divided by the
measured time. The ideal time assumes the FLOP/s of a large matrix product in
the same run. `ratio` is the time divided by the time of the first method. The
ideal value of `ratio` is `NFE / steps`. For S2, this value depends on which
blocks are skipped. --students adds students that sample in a few steps without
guidance (solver renoise). --torch adds a PyTorch network of the same shape for
the methods none, ig and cfg, on the CPU.
"""

import dataclasses
import re
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from dit import backbone
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from guidance import Guidance, parse
from sample.generate import Sampler

METHODS = (
  'none', 'ig:1.4', 'cfg:1.35', 'cfg:1.35@0-0.7', 's2:1.25', 'cfg:1.35,s2:1.25',
  'ig:1.4,cfg:1.35', 'ig:1.4,cfg:1.35@0-0.7',
)  # fmt: skip
# The default network has 28 blocks and 64 tokens.
SMALL = ('model.depth=28', 'model.width=128', 'model.num_heads=4',
         'model.size=16', 'sample.last_step_size=0.0')  # fmt: skip


def latents(sampler: Sampler, guidance: Guidance) -> Callable[[], Any]:
  """Returns a function that samples a batch of latents."""
  index = np.arange(sampler.config.batch_size, dtype=np.int32)
  labels = index % sampler.denoiser.num_classes

  def run():
    with jax.set_mesh(sampler.mesh):
      x, _ = sampler.latents(guidance, labels, index, 0)
      return x.block_until_ready()

  return run


def main() -> None:
  parser = timing.parser(__doc__, 'sampling')
  parser.add_argument('config', nargs='?', help='config (or a small network)')
  parser.add_argument('--methods', nargs='+', default=METHODS)
  parser.add_argument('--students', type=int, nargs='*', default=[])
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--torch', action='store_true')
  args, words = timing.parse(parser)
  changes = [*(() if args.config else SMALL), *words]
  experiment = timing.experiment_of(args.config or 'configs/base.py', changes)
  network = experiment.model
  draw = jax.jit(lambda: backbone.init(network, jax.random.key(0)))
  sampler = Sampler(
    backbone.bind(network, draw()),
    dataclasses.replace(
      experiment.sample, solver='euler', steps=args.steps,
      last_step_size=0.0, batch_size=args.batch_size,
    ),
    path_named(experiment.objective.path),
    network.latent_shape,
    make_mesh(MeshConfig()),
  )  # fmt: skip
  peak = timing.matmul_peak(network.activation_dtype) * jax.device_count()
  cases = {name: (sampler, parse(name)) for name in args.methods}
  for steps in args.students:
    student = dataclasses.replace(sampler.config, solver='renoise', steps=steps)
    cases[f'student {steps}'] = (
      dataclasses.replace(sampler, config=student), parse('none'),
    )  # fmt: skip
  runs = {name: latents(*case) for name, case in cases.items()}
  peers = {}
  for name in args.methods if args.torch else ():
    if match := re.fullmatch(r'(none|ig|cfg)(?::([\d.]+))?', name):
      from benchmarks import torch_dit

      peers[name] = f'torch {name}'
      runs[peers[name]] = torch_dit.sampler(
        network, match[1], float(match[2] or 1), args.steps,
        args.batch_size,
      )  # fmt: skip
  for run in runs.values():
    run()
  seconds = {
    name: statistics.median(times)
    for name, times in timing.in_turns(runs, args.rounds).items()
  }

  rows = []
  baseline = seconds[next(iter(cases))]
  for name, (source, guidance) in cases.items():
    nfe = source.nfe(guidance, 0)
    flops = 2 * nfe * network.pass_multiply_adds
    rate = args.batch_size / seconds[name]
    row = {
      'method': name,
      's / batch': seconds[name],
      'images/s': rate,
      'of ideal': rate * flops / peak,
      'ratio': seconds[name] / baseline,
      'NFE / steps': nfe / args.steps,
    }
    if name in peers:
      row['torch s'] = seconds[peers[name]]
      row['ours / torch'] = seconds[name] / seconds[peers[name]]
    rows.append(row)
  timing.publish(
    args.json, rows, batch_size=args.batch_size, steps=args.steps,
    **{'peak TFLOP/s': peak / 1e12},
  )  # fmt: skip


if __name__ == '__main__':
  main()
