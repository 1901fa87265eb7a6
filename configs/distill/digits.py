"""Students of the digits' teacher, trained in minutes on a CPU.

  python main.py distill --config=configs/distill/digits.py:hybrid,4 \
    --teacher=runs/digits --workdir=runs/hybrid4
  python main.py sample --workdir=runs/hybrid4

  python main.py distill --config=configs/distill/digits.py:flash,4 \
    --teacher=runs/digits --workdir=runs/flash4
  python main.py sample --folder=runs/flash4/student

The argument is METHOD,STEPS. configs/distill/__init__.py lists the methods, and
docs/distillation.md lists the results.
"""

import ml_collections

from configs import digits, distill

# Train steps of the stages of SD3.5-Flash (published student updates:
# trajectory 2000, sharing 800, low 400, high 400).
STEPS = {'trajectory': 400, 'sharing': 300, 'low': 100, 'high': 100}


def get_config(argument: str = 'hybrid,4') -> ml_collections.ConfigDict:
  """Returns the config of the student METHOD,STEPS."""
  method, steps = distill.parse(argument)
  config = digits.get_config()
  # Terms with separate normalizers need a smaller alpha.
  decoupled = method in ('full', 'constrained', 'hybrid')
  guidance = 'cfg:1.05' if decoupled else 'cfg:1.2'
  distill.configure(config, method, steps, guidance=guidance)
  config.optimizer.lr = 1e-3
  config.ema.decay = 0.99
  config.distill.fake_updates = 2
  config.eval.num = 2000  # images for each ratio of a merge
  batch = config.train.batch_size = 64
  if method == 'trajectory':
    batch = config.train.batch_size = 16  # trajectories per batch
    config.distill.substeps = 4
  if method in ('sharing', 'low', 'high'):
    config.optimizer.lr = 2e-4
    config.optimizer.schedule = 'constant'
  config.train.images = STEPS.get(method, 800) * batch
  config.log.every_images = 10 * batch
  config.log.preview_every_images = 500 * batch
  config.checkpoint.every_images = 250 * batch
  return config
