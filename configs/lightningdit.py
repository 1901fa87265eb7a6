"""LightningDiT on ImageNet-256 latents of VA-VAE, plain or with IG.

  python main.py prepare --images=imagenet/train --config.data.dir=data \
    --config.data.name=imagenet256_vavae --config.data.autoencoder=va_vae \
    --autoencoder=va_vae:vavae.pt,latents_stats.pt --config.data.flip=true
  python main.py train --config=configs/lightningdit.py:XL/1,ig \
    --workdir=runs/lightningdit-xl --config.data.dir=data

The argument is size/patch (B, L, XL), then optionally `ig`. Both recipes mirror
half of the images and add a cosine loss on the output.

  ig      Internal Guidance (arXiv 2512.24176, its LightningDiT code): Muon,
          batch 256, uniform times
  (none)  LightningDiT (arXiv 2501.01423): AdamW, batch 1024, logit-normal times
          (the long published runs switch to uniform times at an unknown step)

Published FID (none has been run here):

  XL/1      64 epochs  cfg:10 of three channels 2.11
  XL/1     800 epochs  cfg:6.7 of three channels 1.35
  XL/1,ig   60 epochs  ig 2.42 (scale not published)
  XL/1,ig  680 epochs  ig:1.7 1.34; with cfg 1.19 (lightningdit_xl_ig_cfg)

Published hardware: 8 GPUs; the hours are not published. Unlike the published
code, we sample latents from their posterior in every step, and initialize the
intermediate head with zeros. The EMA decay is that of the published code, but
the paper states 0.9995.
"""

import ml_collections

from configs import base, parse_argument

SIZES = ('B', 'L', 'XL')


def get_config(argument: str = 'XL/1,ig') -> ml_collections.ConfigDict:
  """Returns the recipe of a size and patch, such as 'XL/1,ig'."""
  name, options = parse_argument(argument, SIZES, ('ig',))
  config = base.get_config()
  config.model.name = f'LightningDiT-{name}'
  config.model.size = 16
  config.model.channels = 32
  config.model.taps = ()

  config.optimizer.lr = 2e-4
  config.optimizer.b2 = 0.95
  config.objective.cosine_weight = 1.0
  config.data.name = 'imagenet256_vavae'
  config.data.autoencoder = 'va_vae'
  config.data.flip = True
  config.data.test_split = ''
  if options:
    config.model.taps = (4 if name[0] == 'B' else 8,)
    config.optimizer.name = 'muon'
    config.optimizer.weight_decay = 0.01
    config.train.images = 680 * 1_281_167
  else:
    config.objective.time_sampling = 'logit_normal'
    config.train.batch_size = 1024
    config.train.images = 800 * 1_281_167

  config.sample.solver = 'heun:final_step=heun' if options else 'euler'
  config.sample.steps = 124 if options else 249
  config.sample.last_step_size = 0.0
  config.sample.shift = 1 / 0.3
  config.sample.scales_at = 'evaluation'
  config.log.preview_guidance = 'ig:1.7' if options else 'cfg:2'
  return config
