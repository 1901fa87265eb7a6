"""DiT on ImageNet-256 latents, with noise prediction and learned variance.

  python main.py prepare --images=imagenet/train --config.data.dir=data \
    --config.data.name=imagenet256_flip --config.data.autoencoder=sd_vae \
    --autoencoder=sd_vae:vae.safetensors --config.data.flip=true
  python main.py train --config=configs/dit.py:XL/2 --workdir=runs/dit-xl \
    --config.data.dir=data

The argument is size/patch (S, B, L, XL), then optionally `ig`, a noise loss on
an intermediate head (ours: nobody has published Internal Guidance for DiT). The
recipe is DiT's (arXiv 2212.09748, and its code): 7M steps of 256 images, half
of them mirrored, and AdamW without clipping.

Published FID (none has been run here; DDPM, 250 steps):

  S/2  B/2  L/2   400k steps, without guidance   68.4  43.5  23.3
  XL/2            400k steps, without guidance   19.5
  XL/2            7M steps, cfg:1.5 of three channels   2.27 (dit_xl_cfg)

Published hardware: a TPU v3-256, at 5.7 steps/s for XL/2.
"""

import ml_collections

from configs import base, parse_argument

SIZES = ('S', 'B', 'L', 'XL')


def get_config(argument: str = 'XL/2') -> ml_collections.ConfigDict:
  """Returns the recipe of a size and patch, such as 'XL/2'."""
  name, options = parse_argument(argument, SIZES, ('ig',))
  config = base.get_config()
  config.model.name = f'DiT-{name}'
  config.model.taps = (4 if name[0] in 'SB' else 8,) if options else ()
  config.objective.path = 'discrete'
  config.objective.prediction = 'noise'
  config.objective.time_sampling = 'discrete'
  config.optimizer.clip = 0.0

  config.data.name = 'imagenet256_flip'
  config.data.autoencoder = 'sd_vae'
  config.data.flip = True
  config.data.test_split = ''
  config.train.images = 7_000_000 * 256
  config.sample.solver = 'ddpm'
  config.sample.respacing = '250'
  config.log.preview_guidance = 'ig:1.4' if options else 'cfg:1.5'
  return config
