"""scikit-learn's handwritten digits, trained in minutes on a CPU.

  python main.py train --config=configs/digits.py --workdir=runs/digits

600 steps of batch 64 take under a minute on two cores. This leaves the network
under-trained, so guidance helps. With `--config.train.images=96000`, no method
helps (docs/digits.md).
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns a tiny SiT for pixels, with a tap after block 2 of 6."""
  config = base.get_config()
  config.model.name = 'SiT-Tiny/2'
  config.model.size = 8
  config.model.channels = 1
  config.model.num_classes = 10
  config.model.taps = (2,)

  config.objective.time_sampling = 'logit_normal'

  config.optimizer.lr = 3e-3
  config.optimizer.b2 = 0.99
  config.optimizer.warmup_images = 6_400
  config.optimizer.schedule = 'cosine'
  config.optimizer.end_fraction = 0.05
  config.ema.decay = 0.998
  config.ema.ramp = True

  config.train.images = 38_400
  config.train.batch_size = 64
  config.data.threads = 1
  config.checkpoint.every_images = 12_800
  config.log.every_images = 640
  config.log.preview_every_images = 12_800
  config.log.preview_guidance = 'ig:1.5'
  config.log.preview_num = 50

  config.sample.solver = 'euler'
  config.sample.steps = 50
  config.sample.last_step_size = 0.0
  config.sample.batch_size = 128
  return config
