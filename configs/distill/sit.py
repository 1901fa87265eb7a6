"""Students of SiT on ImageNet-256 latents.

  python main.py distill --config=configs/distill/sit.py:XL/2,dm,1 \
    --teacher=sit-xl --workdir=runs/sit-xl-1

The argument is SIZE/PATCH,METHOD,STEPS. configs/distill/__init__.py lists the
methods. The teacher is a run of configs/sit.py, or published weights from
`convert` (family sit: --config.model.convention=reversed and
--config.model.learned_variance=true). Only a discriminator needs data.

`dm` and `shared` follow the recipe of DMDR's repository (vvvvvjdy/dmdr,
train_cc/sit/scripts/cold_start_sitxl.sh; arXiv 2511.13649) for SiT-XL/2 + REPA
and one step, with these differences in all methods:

  * We average the student's weights, with decay 0.999 per update; DMDR does not
    (`sample --weights=raw` uses the last weights).
  * Our weight decay acts only on matrices; DMDR's acts on all parameters.
  * We use bfloat16 or float32; DMDR uses float16.
  * We sample new labels, noise and trajectories for the student's update; DMDR
    reuses those of the preceding update of the fake denoiser.
  * With more than one step, the student's input differs (distill/rollout.py).

FID-50K of one step, SiT-XL/2 + REPA:

  dm                        2.13   published by DMDR's repository
  shared, cfg:1.5           5.20   published by DMDR's repository
  shared, cfg:4            15.70   published by DMDR's repository
  full, constrained, hybrid        not run; Decoupled DMD has no ImageNet FID
  flash                            not run; SD3.5-Flash has no ImageNet FID

None of these has been run here. The dynamic start of `full`, `constrained` and
`hybrid` is ours: it changes the noise levels of DM and of the fake denoiser,
but not those of CA. The default guidance cfg:1.25 of guided methods is ours.
"""

import ml_collections

from configs import distill, sit

# Train steps of the stages of SD3.5-Flash. The published numbers of student
# updates are 2000, 800, 400 and 400. After the first stage, each student update
# takes five steps (*ours*: fake_updates is unpublished).
STEPS = {'trajectory': 2000, 'sharing': 4000, 'low': 2000, 'high': 2000}


def get_config(argument: str = 'XL/2,dm,1') -> ml_collections.ConfigDict:
  """Returns the config of the student SIZE/PATCH,METHOD,STEPS."""
  size, _, rest = argument.partition(',')
  method, steps = distill.parse(rest)
  config = sit.get_config(size)
  distill.configure(
    config, method, steps, guidance='cfg:1.25', before=f'{size},'
  )
  # The learning rate is that of DMDR's flags --learning-rate-gen and
  # --learning-rate-gui. The optimizer's other values are defaults in DMDR's
  # arguments.py; only the student has weight decay.
  config.optimizer.lr = 2e-5
  config.optimizer.b1, config.optimizer.b2 = 0.9, 0.999
  config.optimizer.eps = 1e-8
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip = 1.0
  config.optimizer.schedule = 'constant'
  config.ema.decay = 0.999
  # The fake denoiser is a LoRA. The next values are those of DMDR's flags
  # --lora-rank, --lora-scale-f and --ratio-update.
  config.distill.fake = 'lora'
  config.distill.lora_rank = 32
  config.distill.lora_scale = 2.0
  config.distill.fake_updates = 5
  if method not in ('flash', *distill.FLASH):
    # Values of DMDR's flags --gui-a, --gui-b, --lora-scale-r, --dynamic-step
    # and --s-type-gen. The noise levels cover the full range 0 to 1.
    config.distill.level_beta = (4.0, 1.5)
    config.distill.teacher_lora_scale = 0.75
    config.distill.dynamic_updates = 10_000
    config.distill.min_level, config.distill.max_level = 0.0, 1.0
    config.distill.step_per_image = True
  batch = config.train.batch_size = 512
  config.train.images = STEPS.get(method, 100_000) * batch
  config.log.every_images = 100 * batch
  config.checkpoint.every_images = 5000 * batch
  config.log.preview_every_images = 5000 * batch
  return config
