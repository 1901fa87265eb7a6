"""Students of the CIFAR-10 teacher of configs/cifar10.py: one GPU.

  python main.py distill --config=configs/distill/cifar10.py:hybrid,4 \
    --teacher=runs/cifar10 --workdir=runs/cifar10-hybrid4 \
    --config.data.dir=data

The argument is METHOD,STEPS; configs/distill/__init__.py has the methods. 4,000
updates of the student at batch 256, five of the fake denoiser for each; not
run here.
"""

import ml_collections

from configs import cifar10, distill

# Steps of a stage of SD3.5-Flash.
STEPS = {'trajectory': 4000, 'sharing': 8000, 'low': 2000, 'high': 2000}


def get_config(argument: str = 'hybrid,4') -> ml_collections.ConfigDict:
  """The student METHOD,STEPS."""
  method, steps = distill.parse(argument)
  config = cifar10.get_config()
  distill.configure(config, method, steps, guidance='cfg:1.3')
  config.optimizer.lr = 5e-5
  config.optimizer.schedule = 'constant'
  config.ema.decay = 0.999
  config.ema.ramp = True
  batch = config.train.batch_size = 256
  if method == 'trajectory':
    batch = config.train.batch_size = 64  # of trajectories
  config.train.images = STEPS.get(method, 20_000) * batch
  config.eval.num = 10_000
  config.log.every_images = 100 * batch
  config.log.preview_every_images = 2000 * batch
  config.checkpoint.every_images = 2000 * batch
  return config
