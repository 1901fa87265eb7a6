"""Students of the digits' teacher: a CPU, minutes.

  python main.py distill --config=configs/distill/digits.py:hybrid,4 \
    --teacher=runs/digits --workdir=runs/hybrid4
  python main.py sample --workdir=runs/hybrid4

The argument is METHOD,STEPS: dm (DMD without CA), shared, full, constrained,
hybrid (Decoupled DMD with these schedules), or flash, the recipe of SD3.5-Flash
of which trajectory, sharing, low and high are the stages.
"""

import ml_collections

from configs import digits

SCHEDULES = ('shared', 'full', 'constrained', 'hybrid')
FLASH = ('trajectory', 'sharing', 'low', 'high')
METHODS = ('dm', *SCHEDULES, 'flash', *FLASH)


def get_config(argument: str = 'hybrid,4') -> ml_collections.ConfigDict:
  """The student METHOD,STEPS."""
  method, _, steps = argument.partition(',')
  if method not in METHODS or not steps.isdigit() or int(steps) < 1:
    raise ValueError(
      f'{argument!r} is not METHOD,STEPS with methods {", ".join(METHODS)}'
    )
  config = digits.get_config()
  config.model.taps = ()
  config.sample.steps = int(steps)
  config.sample.solver = 'renoise'
  config.log.preview_guidance = 'none'
  config.optimizer.lr = 1e-3
  config.optimizer.b1 = 0.0
  config.optimizer.warmup_images = 0
  config.train.images = 2500 * 64
  config.ema.decay = 0.99
  config.log.every_images = 50 * 64
  config.log.preview_every_images = 500 * 64
  config.checkpoint.every_images = 500 * 64
  config.distill.method = 'dmd'
  if method in SCHEDULES:
    config.distill.schedule = method
    config.distill.guidance = 'cfg:1.2'
  return config
