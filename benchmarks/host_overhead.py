"""Measures the host's work in a train step.

  python -m benchmarks.host_overhead

The network has as many arrays as SiT-XL/2 + IG, but all arrays are tiny, and a
batch is one digit. Therefore, the host's work dominates a step. `loop` times a
step of `train.loop`: the batch, the call, the metrics of the previous step,
progress bar and log. `call` times the compiled step and the wait for a result.
"""

import statistics
import tempfile

from etils import epath

from benchmarks import timing
from benchmarks.train_step import our_step
from train import loop
from train.metrics_log import read_metrics
from train.setup import open_setup

TINY = (
  'model.name=SiT-XL/8', 'model.width=8', 'model.num_heads=1', 'model.depth=2',
  'model.taps=(1,)', 'model.size=8', 'model.channels=1', 'model.num_classes=10',
  'data.name=digits', 'data.autoencoder=pixels', 'train.batch_size=1',
  'log.preview_every_images=0', 'log.every_images=200',
)  # fmt: skip


def main() -> None:
  parser = timing.parser(__doc__, 'host_overhead')
  parser.add_argument('--steps', type=int, default=4000)
  args = parser.parse_args()
  changes = [*TINY, f'train.images={args.steps}']
  with tempfile.TemporaryDirectory() as folder:
    changes.append(f'data.dir={folder}/data')
    experiment = timing.experiment_of('configs/sit.py:XL/2,ig', changes)
    loop.train(open_setup(experiment), epath.Path(folder) / 'run')
    rates = [
      row['images_per_second']
      for row in read_metrics(epath.Path(folder) / 'run')
      if 'images_per_second' in row
    ]
  run, _, _ = our_step(experiment)
  calls = timing.in_turns({'call': run}, 20)['call']
  loop_ms = 1e3 / statistics.median(rates)
  call_ms = 1e3 * statistics.median(calls)
  figures = {
    'loop': loop_ms, 'call': call_ms, 'the loop itself': loop_ms - call_ms,
  }  # fmt: skip
  rows = [{'what': part, 'ms a step': ms} for part, ms in figures.items()]
  timing.publish(args.json, rows)


if __name__ == '__main__':
  main()
