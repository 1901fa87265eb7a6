"""Sampling: the rate of each guidance method, against the ideal and a peer.

  python -m benchmarks.sampling
  python -m benchmarks.sampling configs/sit.py:S/2,ig --steps=10 \
    --batch_size=8 --methods none ig:1.4 cfg:1.5 --torch
  python -m benchmarks.sampling configs/sit.py:XL/2,ig --steps=250 \
    --batch_size=256 --students 1 2 4 --decode

Draws a batch with every method in turns. The weights are random; time does not
depend on them. `of ideal` is the rate over that of the arithmetic at the speed
of a large matrix product in the same run; `NFE / steps` is what the arithmetic
asks for in place of `ratio`, the time over that of the first method. S2's
depends on the blocks that the seed draws. A student draws in a few steps
without guidance (solver renoise). --decode times images too, in memory as
uint8: three batches, decoded by SD-VAE while the next is drawn; ideal, then,
with the decoder's own operations. With --torch a PyTorch network of the same
shape takes its turns beside none, ig and cfg, on the CPU
(requirements-torch.txt).
"""

import dataclasses
import re
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from dit import backbone
from dit.autoencoder import AUTOENCODERS, Autoencoder, KLConfig, shapes
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from guidance import Guidance, parse
from sample.generate import Sampler
from train import config_file
from train.experiment import build

METHODS = (
  'none', 'ig:1.4', 'cfg:1.35', 'cfg:1.35@0-0.7', 's2:1.25', 'cfg:1.35,s2:1.25',
  'ig:1.4,cfg:1.35', 'ig:1.4,cfg:1.35@0-0.7',
)  # fmt: skip
# 28 blocks on 64 tokens, if no config is given.
SMALL = ('model.depth=28', 'model.width=128', 'model.num_heads=4',
         'model.size=16', 'sample.last_step_size=0.0')  # fmt: skip
BATCHES = 3  # that --decode times


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

  def images(self, name: str, autoencoder: Autoencoder) -> Callable[[], Any]:
    """Draws and decodes BATCHES batches."""
    guidance, sampler = self.case(name)
    sampler = dataclasses.replace(sampler, decoder=autoencoder)
    labels = np.arange(BATCHES * sampler.config.batch_size, dtype=np.int32)
    labels %= self.config.num_classes

    def run():
      return sampler.images(guidance, labels, 0)

    return run


def random_decoder() -> Autoencoder:
  """SD-VAE's, with random weights."""
  config = KLConfig(latent_channels=4, widths=(128, 256, 512, 512))
  key = jax.random.key(0)
  params = jax.jit(
    lambda: jax.tree.map(
      lambda leaf: 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype),
      shapes(config)['decoder'],
    )
  )()
  return Autoencoder(
    {'decoder': params}, config, AUTOENCODERS['sd_vae'].normalisation
  )


def decoder_flops(autoencoder: Autoencoder, shape: tuple[int, ...]) -> float:
  """Returns the operations for one image, as the compiler counts them."""
  latent = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  lowered = jax.jit(Autoencoder.decode).lower(autoencoder, latent)
  return lowered.cost_analysis()['flops']


def main() -> None:
  """Measures every method."""
  parser = timing.parser(__doc__, 'sampling')
  parser.add_argument('config', nargs='?', help='(the small network above)')
  parser.add_argument('--methods', nargs='+', default=METHODS)
  parser.add_argument('--students', type=int, nargs='*', default=[])
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--decode', action='store_true')
  parser.add_argument('--torch', action='store_true')
  args, given = timing.parse(parser)
  config = config_file.load_config(args.config or 'configs/base.py')
  changes = [*(() if args.config else SMALL), *given]
  experiment = build(config_file.override(config, changes).to_dict())
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
  decoder_cost = 0.0
  if args.decode:
    autoencoder = random_decoder()
    decoder_cost = decoder_flops(autoencoder, bench.config.latent_shape)
    runs |= {
      f'{name}, images': bench.images(name, autoencoder) for name in names
    }
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
    if args.decode:
      rate = BATCHES * args.batch_size / seconds[f'{name}, images']
      row['decoded images/s'] = rate
      row['decoded, of ideal'] = rate * (flops + decoder_cost) / peak
    rows.append(row)
  decoder = {'decoder TFLOP': decoder_cost / 1e12} if args.decode else {}
  timing.publish(
    args.json, rows, batch_size=args.batch_size, steps=args.steps,
    **{'peak TFLOP/s': peak / 1e12}, **decoder,
  )  # fmt: skip


if __name__ == '__main__':
  main()
