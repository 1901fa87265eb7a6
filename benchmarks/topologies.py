"""Compiles the XL train steps and the sampler for TPU pods that are not here.

  python -m benchmarks.topologies

A table of memory, collectives and compile time for each program and topology;
needs libtpu (requirements-tpu.txt), and a quarter of an hour on two cores.
"""

import argparse
import math

import jax

from commands import dry_run
from dit import backbone
from dit.weights.checkpoint import weights_like
from guidance import parse
from train.config_file import load_config, override
from train.experiment import Experiment, build

RECIPES = {
  'SiT-XL/2 + IG': 'configs/sit.py:XL/2,ig',
  'LightningDiT-XL/1 + IG': 'configs/lightningdit.py:XL/1,ig',
}
# Topology: (batch, data x fsdp x tensor, remat, accumulate).
CASES = {
  'v5e:4x4': [(256, (1, 16, 1), 'full', 1), (2048, (1, 16, 1), 'full', 8)],
  'v5e:16x16': [(256, (16, 16, 1), 'none', 1), (2048, (16, 16, 1), 'full', 1)],
  'v6e:8x8': [(256, (8, 8, 1), 'none', 1), (2048, (8, 8, 1), 'full', 2)],
  'v5p:4x4x4': [(256, (8, 8, 1), 'none', 1), (2048, (8, 8, 1), 'none', 1)],
  'v5p:8x8x8': [(256, (32, 8, 2), 'none', 1), (2048, (64, 8, 1), 'none', 1)],
}
GUIDANCE = 'ig:1.4,cfg:1.35@0-0.7'
SHORT = {
  'all-gather': 'AG',
  'all-reduce': 'AR',
  'reduce-scatter': 'RS',
  'all-to-all': 'A2A',
  'collective-permute': 'CP',
}


def experiment_of(
  spec: str,
  mesh: tuple[int, int, int],
  batch: int,
  remat: str = 'none',
  accumulate: int = 1,
) -> Experiment:
  """A recipe on a mesh."""
  sizes = zip(('data', 'fsdp', 'tensor'), mesh, strict=True)
  assignments = [
    f'train.batch_size={batch}',
    f'sample.batch_size={batch}',
    f'model.remat={remat}',
    f'train.accumulate={accumulate}',
    *(f'mesh.{axis}={size}' for axis, size in sizes),
  ]
  return build(override(load_config(spec), assignments).to_dict())


def compile_train(experiment: Experiment, topology: str) -> dry_run.Program:
  """The train step."""
  experiment, mesh = dry_run.placed(experiment, topology)
  step, *shapes = dry_run.train_program(experiment, mesh)
  with jax.set_mesh(mesh):
    return dry_run.compiled(step.lower(*shapes))


def compile_sampler(experiment: Experiment, topology: str) -> dry_run.Program:
  """The guided sampler."""
  experiment, mesh = dry_run.placed(experiment, topology)
  weights = weights_like(experiment.model, mesh, 'float32')
  denoiser = backbone.bind(experiment.model, weights)
  with jax.set_mesh(mesh):
    lowered = dry_run.sample_program(
      experiment, parse(GUIDANCE), denoiser, mesh
    )
    return dry_run.compiled(lowered)


def row(name: str, topology: str, case: str, program: dry_run.Program) -> str:
  """A line of the table."""
  total = program.arguments + program.temporaries
  sent = 'unknown'
  if program.sent is not None:
    sent = ', '.join(
      f'{SHORT[kind]} {count} x {size / count / 2**20:.1f}'
      for kind, (count, size) in sorted(program.sent.items())
    )
  fits = program.refused or f'{total:.2f}'
  return (
    f'| {name} | {topology} | {case} | {fits} | {sent} | '
    f'{program.seconds:.0f} |'
  )


def main() -> None:
  """Prints the table, a row as soon as it is there."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--topologies', nargs='*', default=list(CASES))
  parser.add_argument('--programs', nargs='*', default=['train', 'sample'])
  args = parser.parse_args()
  print(
    '| program | chips | batch, data x fsdp x tensor, remat | GiB a chip | '
    'sent in a step: count x MiB | compile s |\n|---|---|---|---|---|---|'
  )
  for topology in args.topologies:
    if 'train' in args.programs:
      for name, spec in RECIPES.items():
        for batch, mesh, remat, parts in CASES[topology]:
          program = compile_train(
            experiment_of(spec, mesh, batch, remat, parts), topology
          )
          case = f'{batch}, {mesh[0]} x {mesh[1]} x {mesh[2]}, {remat}'
          case += f', {parts} parts' * (parts > 1)
          print(row(f'train {name}', topology, case, program), flush=True)
    if 'sample' in args.programs:
      name, spec = next(iter(RECIPES.items()))
      chips = math.prod(CASES[topology][0][1])
      experiment = experiment_of(spec, (chips, 1, 1), 8 * chips)
      program = compile_sampler(experiment, topology)
      case = f'{8 * chips}, {chips} x 1 x 1'
      print(row(f'sample {name}', topology, case, program), flush=True)


if __name__ == '__main__':
  main()
