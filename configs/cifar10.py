"""A SiT with IG on the pixels of CIFAR-10: 33 M parameters, or 5 M for a CPU.

  python main.py prepare --images=cifar10_train.zip --split=train \
    --config.data.dir=data --config.data.name=cifar10 --image_size=32
  python main.py prepare --images=cifar10_test.zip --split=test \
    --config.data.dir=data --config.data.name=cifar10 --image_size=32
  python main.py train --config=configs/cifar10.py --workdir=runs/cifar10 \
    --config.data.dir=data
  python main.py compare --workdir=runs/cifar10 --num=10000 \
    --guidance=none --guidance=cfg:1.3 --guidance=ig:1.5 --guidance=s2:1.5 \
    --guidance=cfg:1.3,s2:1.25 --guidance=ig:1.5,cfg:1.2

The 240 epochs of 50,000 images should take about 20 minutes on one H200. The
argument `small`, as in --config=configs/cifar10.py:small, selects a network of
about 5 M parameters with patches of 4, for two CPU cores. We have run neither.
`compare` measures distances in the features of a classifier that it trains on
the real images. These distances are not FID.
"""

import ml_collections

from configs import base


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """Returns SiT-S/2 with a tap after block 4 of 12, or the network `small`."""
  if argument not in ('', 'small'):
    raise ValueError(f'{argument!r} is not small', [argument], ['small'])
  config = base.get_config()
  config.model.name = 'SiT-S/2'
  config.model.size = 32
  config.model.channels = 3
  config.model.num_classes = 10
  config.model.taps = (4,)

  config.objective.time_sampling = 'logit_normal'
  config.optimizer.lr = 4e-4
  config.optimizer.b2 = 0.99
  config.optimizer.warmup_images = 256_000
  config.optimizer.schedule = 'cosine'
  config.optimizer.end_fraction = 0.05
  config.ema.decay = 0.9995
  config.ema.ramp = True

  config.data.name = 'cifar10'
  config.data.flip = True
  config.train.images = 12_000_000
  config.train.batch_size = 512
  config.checkpoint.every_images = 2_000_000
  config.log.every_images = 51_200
  config.log.preview_every_images = 2_000_000
  config.log.preview_guidance = 'ig:1.5'
  config.log.preview_num = 100

  config.sample.solver = 'heun'
  config.sample.steps = 50
  config.sample.last_step_size = 0.0
  config.sample.batch_size = 1000
  if argument == 'small':
    _shrink(config)
  return config


def _shrink(config: ml_collections.ConfigDict) -> None:
  """Selects a network for two CPU cores, with a tap after block 3 of 8."""
  config.model.name = 'SiT-Tiny/4'
  config.model.depth, config.model.width, config.model.num_heads = 8, 192, 6
  config.model.taps = (3,)
  config.optimizer.lr = 2e-3
  config.optimizer.warmup_images = 25_600
  config.ema.decay = 0.999
  config.train.images, config.train.batch_size = 512_000, 128
  config.checkpoint.every_images = 64_000
  config.log.every_images = 2_560
  config.log.preview_every_images = 128_000
  config.sample.solver = 'euler'
  config.sample.batch_size = 250
