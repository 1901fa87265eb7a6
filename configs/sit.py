"""SiT on ImageNet-256 latents, plain or with Internal Guidance (IG).

  python main.py prepare --images=imagenet/train --config.data.dir=data \
    --config.data.name=imagenet256 --config.data.autoencoder=sd_vae \
    --autoencoder=sd_vae:vae.safetensors
  python main.py train --config=configs/sit.py:XL/2,ig --workdir=runs/sit-xl \
    --config.data.dir=data

The argument is size/patch (S, B, L, XL), then `ig` for the intermediate loss,
`accelerated` for the guided target as well. IG is arXiv 2512.24176, its SiT
code; without it the recipe is that of SiT (arXiv 2401.08740) and REPA: the
same optimiser, batch and EMA. 80 epochs are 400k steps of 256 images.

Published FID (none has been run here; SDE sampler, 250 steps):

  B/2       80 epochs  33.02
  B/2,ig    80 epochs  30.60; guided ig:1.9 17.38, ig:2.3@0.3-1 16.19
  XL/2,ig   80 epochs  ig 5.31 (scale not published)
  XL/2     800 epochs  SiT alone: cfg:1.5 2.06
  XL/2,ig  800 epochs  ig 1.75; with cfg 1.46 (--preset=sit_xl_ig_cfg)

Hardware as published: 8 GPUs, 32 images each, float16; hours are not published.
Ours: bfloat16 activations; docs/scaling.md has memory and meshes for TPUs.
`accelerated` has no published weight, start or FID: the values are ours.
"""

import ml_collections

from configs import base

SIZES = ('Tiny', 'S', 'B', 'L', 'XL')
OPTIONS = ('ig', 'accelerated')


def get_config(argument: str = 'XL/2,ig') -> ml_collections.ConfigDict:
  """The recipe of a size and patch, such as 'B/2,ig'."""
  name, options = base.parse_argument(argument, SIZES, OPTIONS)
  config = base.get_config()
  config.model.name = f'SiT-{name}'
  config.model.taps = ()
  if options:  # the guided target needs a tap too
    # Published: after block 4 of 12, and after block 8 of 24 and 28.
    config.model.taps = (4 if name[0] in 'SB' else 8,)
  if name.startswith('Tiny'):  # for trying things out; not published
    config.model.taps = (2,) if options else ()
  if 'accelerated' in options:
    config.objective.guided_weight = 0.5
    config.objective.guided_start_images = 2_560_000

  config.data.name = 'imagenet256'
  config.data.autoencoder = 'sd_vae'
  config.data.test_split = ''
  config.train.images = 800 * 1_281_167
  config.log.preview_guidance = 'ig:1.4' if options else 'cfg:1.5'
  return config
