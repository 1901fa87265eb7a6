"""Published settings by name, from configs/presets.py."""

import argparse
from typing import Any

from core.errors import check_choice
from train.config_file import load_config

PRESETS = 'configs/presets.py'


def with_preset(
  args: argparse.Namespace,
) -> tuple[str | None, list[str], dict[str, Any]]:
  """Returns the flags' guidance, config assignments and published figures.

  --guidance overrides the guidance of --preset. Without either flag, the
  guidance is None.
  """
  if args.preset is None:
    return args.guidance, [], {}
  guidance, overrides, row = preset(args.preset)
  return args.guidance or guidance, overrides, row


def preset(name: str) -> tuple[str, list[str], dict[str, Any]]:
  """Returns guidance, config assignments and published figures of a preset.

  The assignments set the network's precision and every key of the section
  `sample` except the batch size. The figures are FID and Inception Score, with
  network, labels, number of images, autoencoder and decoder. An unknown name
  raises InputError.
  """
  presets = load_config(PRESETS)
  check_choice('--preset', name, presets)
  row = presets[name].to_dict()
  guidance, dtype = row.pop('guidance'), row.pop('dtype')
  sampling = load_config('configs/base.py').sample.to_dict() | row.pop('sample')
  del sampling['batch_size']
  assignments = [f'sample.{k}={v}' for k, v in sampling.items()]
  return guidance, [f'model.dtype={dtype}', *assignments], row
