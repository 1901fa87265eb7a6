"""Sampling: the rate of each guidance method, against the ideal and a peer.

  python -m benchmarks.sampling
  python -m benchmarks.sampling configs/sit.py:S/2,ig --steps=10 \
    --batch_size=8 --methods none ig:1.4 cfg:1.5 --torch
  python -m benchmarks.sampling configs/sit.py:XL/2,ig --steps=250 \
    --batch_size=256 --students 1 2 4

Draws a batch with every method in turns. The weights are random; time does not
depend on them. `of ideal` is the rate over that of the arithmetic at the speed
of a large matrix product in the same run; `NFE / steps` is what the arithmetic
asks for in place of `ratio`, the time over that of the first method. S2's
depends on the blocks that the seed draws. A student draws in a few steps
without guidance (solver renoise). With --torch a PyTorch network of the same
shape takes its turns beside none, ig and cfg, on the CPU
(requirements-torch.txt).
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
# 28 blocks on 64 tokens, if no config is given.
SMALL = ('model.depth=28', 'model.width=128', 'model.num_heads=4',
         'model.size=16', 'sample.last_step_size=0.0')  # fmt: skip


class Bench:
  """A network with random weights, and how it is drawn from."""

  def __init__(self, experiment: Any, steps: int, batch_size: int) -> None:
    self.config = experiment.model
    draw = jax.jit(lambda: backbone.init(self.config, jax.random.key(0)))
    self.sampler = Sampler(
      backbone.bind(self.config, draw()),
      dataclasses.replace(
        experiment.sample,
        solver='euler', steps=steps, last_step_size=0.0, batch_size=batch_size,
      ),
      path_named(experiment.objective.path),
      self.config.latent_shape,
      make_mesh(MeshConfig()),
    )  # fmt: skip

  def case(self, name: str) -> tuple[Guidance, Sampler]:
    """Guidance and sampler of a method, or of a student of so many steps."""
    kind, _, steps = name.partition(' ')
    if kind != 'student':
      return parse(name), self.sampler
    student = dataclasses.replace(
      self.sampler.config, solver='renoise', steps=int(steps)
    )
    return parse('none'), dataclasses.replace(self.sampler, config=student)

  def nfe(self, name: str) -> float | None:
    """Network evaluations for an image."""
    guidance, sampler = self.case(name)
    return sampler.nfe(guidance, 0)

  def latents(self, name: str) -> Callable[[], Any]:
    """Draws a batch of latents."""
    guidance, sampler = self.case(name)
    index = np.arange(sampler.config.batch_size, dtype=np.int32)
    labels = index % self.config.num_classes

    def run():
      with jax.set_mesh(sampler.mesh):
        x, _ = sampler.latents(guidance, labels, index, 0)
        return x.block_until_ready()

    return run


def main() -> None:
  """Measures every method."""
  parser = timing.parser(__doc__, 'sampling')
  parser.add_argument('config', nargs='?', help='(the small network above)')
  parser.add_argument('--methods', nargs='+', default=METHODS)
  parser.add_argument('--students', type=int, nargs='*', default=[])
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--torch', action='store_true')
  args, given = timing.parse(parser)
  changes = [*(() if args.config else SMALL), *given]
  experiment = timing.experiment_of(args.config or 'configs/base.py', changes)
  bench = Bench(experiment, args.steps, args.batch_size)
  peak = timing.matmul_peak(bench.config.activation_dtype)
  peak *= jax.device_count()

  names = [*args.methods, *(f'student {steps}' for steps in args.students)]
  runs = {name: bench.latents(name) for name in names}
  peers = {}
  for name in args.methods if args.torch else ():
    if found := re.fullmatch(r'(none|ig|cfg)(?::([\d.]+))?', name):
      from benchmarks import torch_dit

      peers[name] = f'torch {name}'
      runs[peers[name]] = torch_dit.sampler(
        bench.config, found[1], float(found[2] or 1), args.steps,
        args.batch_size,
      )  # fmt: skip
  for run in runs.values():
    run()
  seconds = {
    name: statistics.median(times)
    for name, times in timing.in_turns(runs, args.rounds).items()
  }

  rows = []
  for name in names:
    nfe = bench.nfe(name)
    flops = 2 * nfe * bench.config.pass_multiply_adds
    rate = args.batch_size / seconds[name]
    row = {
      'method': name,
      's / batch': seconds[name],
      'images/s': rate,
      'of ideal': rate * flops / peak,
      'ratio': seconds[name] / seconds[names[0]],
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
