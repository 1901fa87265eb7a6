"""Measures the time to trace and compile the train step at several depths.

  python -m benchmarks.compile_time

The default config is SiT-XL/2 + IG. The step scans over the blocks for the
depths in --depths, and runs a Python loop over the blocks for the depths in
--unrolled. The compiled step is not executed.
"""

import jax

from benchmarks import timing
from commands import dry_run
from dit.sharding import make_mesh


def main() -> None:
  parser = timing.parser(__doc__, 'compile_time')
  parser.add_argument('--config', default='configs/sit.py:XL/2,ig')
  parser.add_argument('--depths', type=int, nargs='+', default=[10, 28, 56])
  parser.add_argument('--unrolled', type=int, nargs='*', default=[10])
  parser.add_argument('--batch_size', type=int, default=8)
  args = parser.parse_args()
  cases = [(True, depth) for depth in args.depths]
  cases += [(False, depth) for depth in args.unrolled]
  rows = []
  for scan, depth in cases:
    changes = [f'model.depth={depth}', f'model.scan={scan}',
             f'train.batch_size={args.batch_size}']  # fmt: skip
    experiment = timing.experiment_of(args.config, changes)
    mesh = make_mesh(experiment.mesh)
    program = dry_run.compile_train(experiment, mesh)
    rows.append(
      {
        'blocks': depth,
        'as': 'a loop' if scan else 'written out',
        'trace s': program.trace,
        'compile s': program.seconds,
        'GiB': program.arguments + program.temporaries,
      }
    )
    jax.clear_caches()
  timing.publish(args.json, rows, config=args.config)


if __name__ == '__main__':
  main()
