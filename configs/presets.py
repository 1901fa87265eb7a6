"""Published sampler settings with their published FID.

  python main.py sample --folder=sit-xl-ig --preset=sit_xl_ig_cfg \
    --autoencoder=sd_vae:sd-vae-ft-ema.safetensors

FID and IS are published figures of 50,000 ImageNet-256 images with random
labels against the ADM reference; none has been run here. A preset sets
guidance, solver, steps, times, precision of state and network, conversion to
8-bit pixels, labels and number of images. A preset names the decoder, but the
user gives its file with --autoencoder. A comment describes how the weights were
trained. The published code multiplies matrices in TF32 and draws other noise.
Times are in our convention, 0 at the data and 1 at the noise.
"""

import ml_collections

# Activations are float32, although our default on accelerators is bfloat16.
_COMMON = {'dtype': 'float32', 'labels': 'random', 'num': 50_000}
_SD = {**_COMMON, 'autoencoder': 'sd_vae', 'decoder': 'sd-vae-ft-ema'}
_VA = {
  **_COMMON,
  'autoencoder': 'va_vae',
  'decoder': 'vavae-imagenet256-f16d32-dinov2',
}
_SDE = {'solver': 'euler_maruyama', 'steps': 250, 'last_step_size': 0.04}
# REPA's code and Internal Guidance's SiT code keep a float64 state and truncate
# pixels. The code of DiT, SiT and LightningDiT has a float32 state and rounds.
_REPA = {**_SDE, 'state_dtype': 'float64', 'truncate': True}
_LIGHTNING = {
  'last_step_size': 0.0,
  'shift': 1 / 0.3,
  'scales_at': 'evaluation',
}
_HEUN = {'solver': 'heun:final_step=heun', 'steps': 124, **_LIGHTNING}
_EULER = {'solver': 'euler', 'steps': 249, **_LIGHTNING}

PRESETS = {
  # DiT-XL/2, 7M steps (arXiv 2212.09748), with guidance of 3 of 4 channels.
  'dit_xl_cfg': {
    **_SD,
    'guidance': 'cfg:1.5:guided_channels=3',
    'sample': {'solver': 'ddpm', 'respacing': '250'},
    'fid': 2.27,
    'inception_score': 278.2,
  },
  # SiT-XL/2, 1,400 epochs (arXiv 2401.08740), with guidance of 3 of 4 channels.
  # The first preset samples the SDE, and the second preset the ODE.
  'sit_xl_cfg': {
    **_SD,
    'guidance': 'cfg:1.5:guided_channels=3',
    'sample': {**_SDE, 'solver': 'euler_maruyama:diffusion=sigma'},
    'fid': 2.06,
    'inception_score': 270.3,
  },
  'sit_xl_cfg_ode': {
    **_SD,
    'guidance': 'cfg:1.5:guided_channels=3',
    'sample': {
      'solver': 'dopri5:rtol=1e-3:atol=1e-6:overshoot=true',
      'last_step_size': 0.0,
    },
    'fid': 2.15,
    'inception_score': 258.1,
  },
  # SiT-XL/2 + REPA, 800 epochs (arXiv 2410.06940, and its README's command).
  'sit_xl_repa_interval': {
    **_SD,
    'guidance': 'cfg:1.8@0-0.7',
    'sample': _REPA,
    'fid': 1.42,
    'inception_score': 305.7,
  },
  # SiT-XL/2 + IG, 800 epochs (arXiv 2512.24176, and its sampling script, which
  # applies IG at all times). IG alone has FID 1.75, at an unpublished scale.
  'sit_xl_ig_cfg': {
    **_SD,
    'guidance': 'ig:1.4,cfg:1.35@0-0.7',
    'sample': _REPA,
    'fid': 1.46,
    'inception_score': 265.7,
  },
  # SiT-B/2 + IG, 80 epochs (ablation of the same paper, reported second-hand).
  'sit_b_ig': {
    **_SD,
    'guidance': 'ig:1.9',
    'sample': _REPA,
    'fid': 17.38,
    'inception_score': 69.12,
  },
  'sit_b_ig_interval': {
    **_SD,
    'guidance': 'ig:2.3@0.3-1',
    'sample': _REPA,
    'fid': 16.19,
    'inception_score': 72.95,
  },
  # LightningDiT-XL/1 on VA-VAE (arXiv 2501.01423), 64 and 800 epochs. Only
  # three of 32 channels are guided, so the scales are large.
  'lightningdit_xl_64': {
    **_VA,
    'guidance': 'cfg:10:guided_channels=3@0-0.9',
    'sample': _EULER,
    'fid': 2.11,
    'inception_score': 252.3,
  },
  'lightningdit_xl_800': {
    **_VA,
    'guidance': 'cfg:6.7:guided_channels=3@0-0.875',
    'sample': _EULER,
    'fid': 1.35,
    'inception_score': 295.3,
  },
  # LightningDiT-XL/1 + IG, 680 epochs (arXiv 2512.24176, and its config).
  'lightningdit_xl_ig': {
    **_VA,
    'guidance': 'ig:1.7',
    'sample': _HEUN,
    'fid': 1.34,
    'inception_score': 229.3,
  },
  'lightningdit_xl_ig_cfg': {
    **_VA,
    'guidance': 'ig:1.4,cfg:1.45@0-0.81',
    'sample': _HEUN,
    'fid': 1.19,
    'inception_score': 269.0,
  },
}


# Network of a preset, by the prefix of the preset's name.
_NETWORKS = {
  'dit_xl': 'DiT-XL/2',
  'sit_xl': 'SiT-XL/2',
  'sit_b': 'SiT-B/2',
  'lightningdit_xl': 'LightningDiT-XL/1',
}


def get_config() -> ml_collections.ConfigDict:
  """Returns all presets, by name."""
  presets = ml_collections.ConfigDict(PRESETS)
  for name, preset in presets.items():
    (preset.network,) = (
      network for key, network in _NETWORKS.items() if name.startswith(key)
    )
  return presets
