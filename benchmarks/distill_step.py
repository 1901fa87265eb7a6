"""Time of a period of distillation: two programs, or all of it as one.

  python -m benchmarks.distill_step --config=configs/distill/digits.py:hybrid,4

Random weights; a period is `distill.fake_updates` steps of the fake denoiser,
after the last of which the student takes one. The project runs it as two
programs, chosen on the host; beside it stands one program of the whole period.
Prints the median over the rounds, which alternate.
"""

import argparse
import functools
import time

import jax
import numpy as np

from distill import run, step
from distill.config import build_student
from dit import backbone
from dit.sharding import make_mesh
from train import config_file


def main() -> None:
  """Compiles both, and takes their times in turn."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/distill/digits.py:hybrid,4')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=15)
  args = parser.parse_args()
  given = [f'train.batch_size={args.batch_size}']
  config = config_file.override(config_file.load_config(args.config), given)
  experiment = build_student(config.to_dict())
  if experiment.distill.adversarial:
    parser.error('a discriminator needs data; choose another config.')
  mesh = make_mesh(experiment.mesh)
  distillation = run.distillation_of(experiment, experiment.model)
  _, rules = run.make_rules(experiment)
  period = experiment.distill.period
  with jax.set_mesh(mesh):
    weights = functools.partial(backbone.init, experiment.model)
    teacher = jax.jit(weights)(jax.random.key(0))
    abstract = step.abstract(distillation, rules, mesh)
    make = functools.partial(
      step.make_distill_step, distillation, rules, abstract
    )
    advance, key = make(teacher), jax.random.key(1)

    def two(state):
      for n in range(period):
        state, metrics = advance(n, state, {}, key)
      return state, metrics

    @functools.partial(jax.jit, donate_argnums=0)
    def whole(state, teacher):
      inside = make(teacher)
      for n in range(period):
        state, metrics = inside(n, state, {}, key)
      return state, metrics

    programs = {
      'two programs': two,
      'one program': lambda state: whole(state, teacher),
    }
    start = jax.jit(functools.partial(step.fresh, distillation, rules, seed=0))
    states = {name: start(teacher, teacher) for name in programs}
    seconds = {name: [] for name in programs}
    for name, program in programs.items():
      begin = time.perf_counter()
      states[name], _ = jax.block_until_ready(program(states[name]))
      print(f'{name}: compiled in {time.perf_counter() - begin:.1f} s')
    for _ in range(args.rounds):
      for name, program in programs.items():
        begin = time.perf_counter()
        states[name], _ = jax.block_until_ready(program(states[name]))
        seconds[name].append(time.perf_counter() - begin)
  for name, found in seconds.items():
    print(f'{name}: {1e3 * np.median(found):.1f} ms a period of {period}')


if __name__ == '__main__':
  main()
