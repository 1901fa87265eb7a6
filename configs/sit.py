"""SiT on ImageNet-256 latents, plain or with Internal Guidance (IG).

  python main.py prepare --images=imagenet/train --config.data.dir=data \
    --config.data.name=imagenet256 --config.data.autoencoder=sd_vae \
    --autoencoder=sd_vae:vae.safetensors
  python main.py train --config=configs/sit.py:XL/2,ig --workdir=runs/sit-xl \
    --config.data.dir=data

The argument is size/patch (S, B, L, XL), then options:

  (none)       training settings shared by REPA (arXiv 2410.06940) and Internal
               Guidance, without REPA's alignment loss: 800 epochs, gradients
               clipped to norm 1, no mirrored images
  ig           intermediate loss of IG (arXiv 2512.24176, its SiT code)
  accelerated  guided target of IG; its weight and start are ours, since the
               paper publishes neither them nor an FID
  original     settings of SiT (arXiv 2401.08740, and its code) instead: 1,400
               epochs, no clipping, half of the images mirrored (prepare them
               as imagenet256_flip, with data.flip=true; see dit.py)

All options share the optimizer, a batch of 256, EMA, uniform times and label
dropout. 80 epochs are 400k steps.

Published FID (none has been run here; SDE sampler, 250 steps):

  XL/2,original  1,400 epochs  cfg:1.5 of three channels 2.06 (sit_xl_cfg)
  XL/2,ig           80 epochs  ig 5.31 (scale not published)
  XL/2,ig          800 epochs  ig 1.75; with cfg 1.46 (sit_xl_ig_cfg)
  B/2               80 epochs  33.02
  B/2,ig            80 epochs  30.60; ig:1.9 17.38, ig:2.3@0.3-1 16.19

The rows of B/2 are second-hand, from texts that quote IG's paper. REPA's FID of
1.42 (sit_xl_repa_interval) needs REPA's alignment loss, which we do not have.
Published hardware of IG: 8 GPUs with 32 images each, in float16; the hours are
not published. Our activations are bfloat16. docs/scaling.md lists memory and
meshes for TPUs.
"""

import ml_collections

from configs import base, parse_argument

SIZES = ('Tiny', 'S', 'B', 'L', 'XL')
OPTIONS = ('ig', 'accelerated', 'original')


def get_config(argument: str = 'XL/2,ig') -> ml_collections.ConfigDict:
  """Returns the recipe of a size and patch, such as 'B/2,ig'."""
  name, options = parse_argument(argument, SIZES, OPTIONS)
  if 'original' in options and len(options) > 1:
    raise ValueError(
      f'{argument!r}: original is the recipe of SiT alone, which has no '
      'intermediate loss; leave out the other options',
      ['original'],
      (*SIZES, *OPTIONS),
    )
  config = base.get_config()
  config.model.name = f'SiT-{name}'
  config.model.taps = ()
  tapped = options - {'original'}  # the guided target needs a tap too
  if tapped:
    # Published taps follow block 4 (of 12 blocks) or block 8 (of 24 or 28).
    config.model.taps = (4 if name[0] in 'SB' else 8,)
  if name.startswith('Tiny'):  # for quick trials; not published
    config.model.taps = (2,) if tapped else ()
  if 'accelerated' in options:
    config.objective.guided_weight = 0.5
    config.objective.guided_start_images = 2_560_000

  config.data.name = 'imagenet256'
  config.data.autoencoder = 'sd_vae'
  config.data.test_split = ''
  config.train.images = 800 * 1_281_167
  config.log.preview_guidance = 'ig:1.4' if tapped else 'cfg:1.5'
  if 'original' in options:
    config.optimizer.clip = 0.0
    config.data.name = 'imagenet256_flip'
    config.data.flip = True
    config.train.images = 1400 * 1_281_167
  return config
