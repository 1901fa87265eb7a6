"""Measures the communication of the compiled train step by number of devices.

  python -m benchmarks.scaling

Compiles the step for 1, 2, 4 and 8 simulated CPU devices with equally many
images each, for the layouts `data`, `zero1` and `fsdp`, without executing it.
`sent` counts the whole float32 arrays of collectives in one step. `of ideal` is
`sent` over the minimum of the layout: gradients once (`data`), also the new
parameters once (`zero1`), or gradients once and every kernel of the blocks
twice (`fsdp`). A fast network hides communication. `main.py train --dry_run
--topology` compiles for TPUs.
"""

import math

import jax

from benchmarks import timing
from commands import dry_run
from dit import backbone
from dit.sharding import make_mesh
from train.experiment import Experiment

LAYOUTS = ('data', 'zero1', 'fsdp')


def ideal(experiment: Experiment, layout: str) -> int:
  """Returns the minimum of bytes that a step sends, in float32."""
  shapes = backbone.shapes(experiment.model)

  def size(tree):
    return 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

  if layout == 'data':
    return size(shapes)
  if layout == 'zero1':
    return 2 * size(shapes)
  kernels = [
    leaf for leaf in jax.tree.leaves(shapes['blocks']) if leaf.ndim > 2
  ]
  return size(shapes) + 2 * size(kernels)


def main() -> None:
  parser = timing.parser(__doc__, 'scaling')
  parser.add_argument('--config', default='configs/sit.py:B/2,ig')
  parser.add_argument('--images', type=int, default=4, help='per device')
  parser.add_argument('--devices', type=int, nargs='+', default=[1, 2, 4, 8])
  args = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', max(args.devices))
  rows = []
  for layout in LAYOUTS:
    for count in args.devices:
      axis = 'fsdp' if layout == 'fsdp' else 'data'
      experiment = timing.experiment_of(
        args.config,
        ['mesh.data=1', 'mesh.fsdp=1', f'mesh.{axis}={count}',
         f'mesh.zero1={layout == "zero1"}',
         f'train.batch_size={count * args.images}'],
      )  # fmt: skip
      mesh = make_mesh(experiment.mesh, jax.devices()[:count])
      program = dry_run.compile_train(experiment, mesh)
      sent = program.sent or {}
      total = sum(size for _, size in sent.values())
      rows.append(
        {
          'layout': layout,
          'devices': count,
          'GiB on each': program.arguments + program.temporaries,
          'sent MiB': total / 2**20,
          'of ideal': total / ideal(experiment, layout) if total else None,
          'collectives': ', '.join(
            f'{n} {kind}' for kind, (n, _) in sorted(sent.items())
          ),
        }
      )
  timing.publish(args.json, rows, config=args.config, images=args.images)


if __name__ == '__main__':
  main()
