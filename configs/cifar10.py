"""A SiT of 33 M parameters with IG on the pixels of CIFAR-10, for one GPU.

  python main.py prepare --images=cifar10_train.zip --split=train \
    --config.data.dir=data --config.data.name=cifar10 --image_size=32
  python main.py prepare --images=cifar10_test.zip --split=test \
    --config.data.dir=data --config.data.name=cifar10 --image_size=32
  python main.py train --config=configs/cifar10.py --workdir=runs/cifar10 \
    --config.data.dir=data
  python main.py compare --workdir=runs/cifar10 --num=10000 \
    --guidance=none --guidance=cfg:1.3 --guidance=ig:1.5 --guidance=s2:1.5 \
    --guidance=cfg:1.3,s2:1.25 --guidance=ig:1.5,cfg:1.2

The 240 epochs of 50,000 images should take about 20 minutes on one H200; we
have not run them. `compare` measures distances in the features of a classifier
that it trains on the real images. These distances are not FID.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns SiT-S/2 for 32 x 32 pixels, with a tap after block 4 of 12."""
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
  return config
