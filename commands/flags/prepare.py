"""Flags of the command prepare."""

import argparse

from commands.flags import shared

DESCRIPTION = (
  'turn images into records for training; the same command again resumes'
)
EPILOG = f"""\
Writes data.dir/data.name/SPLIT. {shared.ALL_KEYS}
Example: python main.py prepare --images=imagenet/train \\
           --config.data.name=imagenet256 --autoencoder=sd_vae:vae.safetensors
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `prepare`."""
  parser.add_argument(
    '--images',
    type=shared.path,
    help='folder or .zip of CLASS/IMAGE, or tfds:NAME[:SPLIT] (docs/data.md '
    'describes ImageNet from its tars)',
  )
  parser.add_argument(
    '--autoencoder',
    metavar=shared.AUTOENCODER,
    type=shared.path,
    help='autoencoder that encodes the images: its name and its published '
    'files, or their folder (none: pixels)',
  )
  parser.add_argument(
    '--config', default='configs/base.py', help='config file (%(default)s)'
  )
  parser.add_argument(
    '--split', default='train', help='split to write (%(default)s)'
  )
  parser.add_argument(
    '--verify', action='store_true', help='only check all records'
  )
  parser.add_argument(
    '--image_size',
    type=int,
    default=256,
    help='side of the center crop (%(default)s)',
  )
  parser.add_argument(
    '--dtype',
    default='float16',
    help='float16 or float32, for mean and std of latents (%(default)s)',
  )
  parser.add_argument(
    '--batch_size',
    type=int,
    default=64,
    help='images per call of the encoder, on each process (%(default)s)',
  )
  parser.add_argument(
    '--shard_records',
    type=int,
    default=4096,
    help='images per file (%(default)s)',
  )
  parser.add_argument(
    '--threads',
    type=int,
    default=16,
    help='threads that read images (%(default)s)',
  )
  parser.add_argument(
    '--max_broken',
    type=int,
    default=100,
    help='largest number of broken images to skip (%(default)s)',
  )
  shared.add_processes(parser)
