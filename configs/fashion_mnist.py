"""A SiT of 1.9 M parameters with IG on the pixels of Fashion-MNIST, for a CPU.

  F=/usr/share/datasets/fashion-mnist   # Debian's dataset-fashion-mnist
  N=t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,boot
  python main.py prepare --config=configs/fashion_mnist.py --image_size=28 \
    --images=$F/train-images-idx3-ubyte.gz --class_names=$N --split=train
  python main.py prepare --config=configs/fashion_mnist.py --image_size=28 \
    --images=$F/t10k-images-idx3-ubyte.gz --class_names=$N --split=test
  python main.py train --config=configs/fashion_mnist.py --workdir=runs/fashion
  python main.py compare --workdir=runs/fashion --num=5000 \
    --guidance=none --guidance=cfg:1.5 --guidance=ig:1.9 \
    --guidance=ig:1.4,cfg:1.35@0-0.7

The authors of the data set publish the same four files at
https://github.com/zalandoresearch/fashion-mnist. On two CPU cores (AVX2) with
no other work, the first `prepare` takes one minute and `train` 23 minutes, with
1.2 GiB of memory. docs/results.md has results.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns a SiT/4 for 28 x 28 gray pixels, with a tap after block 2 of 6."""
  config = base.get_config()
  config.model.name = 'SiT-Tiny/4'
  config.model.depth = 6
  config.model.width = 128
  config.model.num_heads = 4
  config.model.size = 28
  config.model.channels = 1
  config.model.num_classes = 10
  config.model.taps = (2,)

  config.objective.time_sampling = 'logit_normal'
  config.optimizer.lr = 2e-3
  config.optimizer.b2 = 0.99
  config.optimizer.warmup_images = 6_400
  config.optimizer.schedule = 'cosine'
  config.optimizer.end_fraction = 0.05
  config.ema.decay = 0.998
  config.ema.ramp = True

  config.data.name = 'fashion_mnist'
  config.train.images = 128_000
  config.train.batch_size = 64
  config.data.threads = 1
  config.checkpoint.every_images = 32_000
  config.log.every_images = 1_280
  config.log.preview_every_images = 32_000
  config.log.preview_guidance = 'ig:1.5'
  config.log.preview_num = 50

  config.sample.solver = 'dpm++'
  config.sample.steps = 16
  config.sample.last_step_size = 0.0
  config.sample.batch_size = 250
  return config
