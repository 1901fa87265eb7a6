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
_BATCH = 64


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
  config.optimizer.lr = 1e-3
  config.optimizer.b1 = 0.0
  config.optimizer.warmup_images = 0
  config.ema.decay = 0.99
  config.train.batch_size = _BATCH
  config.log.every_images = 50 * _BATCH
  config.log.preview_every_images = 500 * _BATCH
  config.log.preview_guidance = 'none'
  config.checkpoint.every_images = 250 * _BATCH
  config.distill.method = 'dmd'
  if method in SCHEDULES:
    config.distill.schedule = method
  if method != 'dm':
    config.distill.guidance = 'cfg:1.2'
  updates = 1500
  if method in ('flash', *FLASH):
    updates = _flash(config, method, steps)
  config.train.images = updates * config.train.batch_size
  return config


def _flash(config: ml_collections.ConfigDict, method: str, steps: str) -> int:
  """Makes it a stage of SD3.5-Flash, or all of them; returns its steps."""
  config.sample.solver = 'euler'
  config.distill.query = 'trajectory'
  config.distill.normaliser = 'guided'
  if method == 'flash':
    config.distill.stages = tuple(f'{stage},{steps}' for stage in FLASH)
    config.eval.num = 2000
  if method == 'trajectory':
    config.distill.method = 'trajectory'
    config.distill.substeps = 4
    config.train.batch_size = 16  # trajectories, of `steps` intervals each
    return 400
  config.distill.gan_weight = 1e-3
  config.distill.discriminator_reset = 0.005
  if method in ('low', 'high'):
    config.distill.branch = method
    config.optimizer.lr = 2e-4
    config.optimizer.schedule = 'constant'
    return 250
  return 500
