"""Students of SiT on ImageNet-256 latents.

  python main.py distill --config=configs/distill/sit.py:XL/2,dm,1 \
    --teacher=sit-xl --workdir=runs/sit-xl-1

The argument is SIZE/PATCH,METHOD,STEPS; configs/distill/__init__.py has the
methods. The teacher is a run of configs/sit.py, or a folder that `convert` made
of published weights (of family sit: --config.model.convention=reversed and
--config.model.learn_sigma=true). Without a discriminator no data is needed.

The recipe is that of DMDR's repository (arXiv 2511.13649) for SiT-XL/2 + REPA:
one step, batch 512, AdamW with 2e-5 for student and fake denoiser, which is the
teacher with LoRA of rank 32, five of its updates for each of 20,000 of the
student. Published there, one step, FID-50K: dm 2.13; with CFG of 1.5 (shared)
5.20, of 4 15.70. Decoupled DMD and SD3.5-Flash publish none for ImageNet. None
has been run here.
"""

import ml_collections

from configs import distill, sit

# Steps of a stage of SD3.5-Flash, as published but for the period of the fake
# denoiser, of which nothing is known.
STEPS = {'trajectory': 2000, 'sharing': 4000, 'low': 2000, 'high': 2000}


def get_config(argument: str = 'XL/2,dm,1') -> ml_collections.ConfigDict:
  """The student SIZE/PATCH,METHOD,STEPS."""
  size, _, rest = argument.partition(',')
  method, steps = distill.parse(rest)
  config = sit.get_config(size)
  distill.configure(
    config, method, steps, guidance='cfg:1.25', before=f'{size},'
  )
  config.optimizer.lr = 2e-5
  config.optimizer.b1 = 0.9
  config.optimizer.weight_decay = 0.01
  config.ema.decay = 0.999
  config.distill.fake = 'lora'
  batch = config.train.batch_size = 512
  config.train.images = STEPS.get(method, 100_000) * batch
  config.log.every_images = 100 * batch
  config.checkpoint.every_images = 5000 * batch
  config.log.preview_every_images = 5000 * batch
  return config
