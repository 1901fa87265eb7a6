"""Published settings of samplers, and the FID they are said to give.

  python main.py sample --folder=sit-xl-ig --preset=sit_xl_ig_cfg --num=50000 \
    --labels=random --autoencoder=sd_vae:sd-vae-ft-ema.safetensors

FID (and IS) are of 50,000 ImageNet-256 images with random labels against the
ADM reference, as published; none has been run here. Times are ours: 0 data, 1
noise.
"""

import ml_collections

_SDE = {'solver': 'euler_maruyama', 'steps': 250, 'last': 0.04}
_LIGHTNING = {'last': 0.0, 'shift': 1 / 0.3, 'scales_at': 'evaluation'}
_HEUN = {'solver': 'heun:last=heun', 'steps': 124, **_LIGHTNING}
_EULER = {'solver': 'euler', 'steps': 249, **_LIGHTNING}

PRESETS = {
  # DiT-XL/2 (arXiv 2212.09748); three of four channels are guided.
  'dit_xl_cfg': {
    'guidance': 'cfg:1.5:guided_channels=3',
    'sample': {'solver': 'ddpm', 'respacing': '250'},
    'fid': 2.27,
    'inception_score': 278.2,
  },
  # SiT-XL/2 (arXiv 2401.08740); likewise. The SDE, and the ODE.
  'sit_xl_cfg': {
    'guidance': 'cfg:1.5:guided_channels=3',
    'sample': {**_SDE, 'solver': 'euler_maruyama:diffusion=sigma'},
    'fid': 2.06,
    'inception_score': 270.3,
  },
  'sit_xl_cfg_ode': {
    'guidance': 'cfg:1.5:guided_channels=3',
    'sample': {
      'solver': 'dopri5:rtol=1e-3:atol=1e-6:overshoot=true',
      'last': 0.0,
    },
    'fid': 2.15,
    'inception_score': 258.1,
  },
  # SiT-XL/2 trained with REPA, 800 epochs (arXiv 2410.06940).
  'sit_xl_repa_interval': {
    'guidance': 'cfg:1.8@0-0.7',
    'sample': _SDE,
    'fid': 1.42,
    'inception_score': 305.7,
  },
  # SiT-XL/2 + IG, 800 epochs (arXiv 2512.24176, and its sampling script). The
  # scale behind IG alone, FID 1.75, is not published.
  'sit_xl_ig_cfg': {
    'guidance': 'ig:1.4,cfg:1.35@0-0.7',
    'sample': _SDE,
    'fid': 1.46,
    'inception_score': 265.7,
  },
  # SiT-B/2 + IG, 80 epochs (the same paper, as others report its ablation).
  'sit_b_ig': {
    'guidance': 'ig:1.9',
    'sample': _SDE,
    'fid': 17.38,
    'inception_score': 69.12,
  },
  'sit_b_ig_interval': {
    'guidance': 'ig:2.3@0.3-1',
    'sample': _SDE,
    'fid': 16.19,
    'inception_score': 72.95,
  },
  # LightningDiT-XL/1 on VA-VAE (arXiv 2501.01423), 64 and 800 epochs; three of
  # 32 channels are guided, hence the scales.
  'lightningdit_xl_64': {
    'guidance': 'cfg:10:guided_channels=3@0-0.9',
    'sample': _EULER,
    'fid': 2.11,
    'inception_score': 252.3,
  },
  'lightningdit_xl_800': {
    'guidance': 'cfg:6.7:guided_channels=3@0-0.875',
    'sample': _EULER,
    'fid': 1.35,
    'inception_score': 295.3,
  },
  # LightningDiT-XL/1 + IG, 680 epochs (arXiv 2512.24176, and its config).
  'lightningdit_xl_ig': {
    'guidance': 'ig:1.7',
    'sample': _HEUN,
    'fid': 1.34,
    'inception_score': 229.3,
  },
  'lightningdit_xl_ig_cfg': {
    'guidance': 'ig:1.4,cfg:1.45@0-0.81',
    'sample': _HEUN,
    'fid': 1.19,
    'inception_score': 269.0,
  },
}


def get_config() -> ml_collections.ConfigDict:
  """All presets, by name."""
  return ml_collections.ConfigDict(PRESETS)
