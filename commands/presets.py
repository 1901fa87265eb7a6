"""Published settings by name, from configs/presets.py."""

import argparse
from typing import Any

from core.errors import check_choice
from train.config_file import load_config

PRESETS = 'configs/presets.py'


def with_preset(
  args: argparse.Namespace,
) -> tuple[str | None, list[str], dict[str, Any]]:
  """Returns guidance, overrides and the published row, as --preset sets them.

  The flag --guidance replaces the guidance; without either it is None.
  """
  if args.preset is None:
    return args.guidance, [], {}
  guidance, overrides, row = preset(args.preset)
  return args.guidance or guidance, overrides, row


def preset(name: str) -> tuple[str, list[str], dict[str, Any]]:
  """Returns published settings, and the row that was published with them.

  Returns:
    Guidance; assignments to the network's precision and to all keys of sampling
    but the batch size; and FID, Inception Score, labels, number of images,
    autoencoder and decoder of the published row.

  Raises:
    InputError: For an unknown name; the message names the known ones.
  """
  presets = load_config(PRESETS)
  check_choice('--preset', name, presets)
  row = presets[name].to_dict()
  guidance, dtype = row.pop('guidance'), row.pop('dtype')
  sampling = load_config('configs/base.py').sample.to_dict() | row.pop('sample')
  del sampling['batch_size']
  assignments = [f'sample.{k}={v}' for k, v in sampling.items()]
  return guidance, [f'model.dtype={dtype}', *assignments], row
