"""Flags of the command prepare."""

import argparse

from commands.flags import shared

SUMMARY = (
  'turn images into records for training; the same command again resumes'
)
USAGE = '--images=IMAGES --config.data.name=NAME'
EXAMPLES = """
  python main.py prepare --images=imagenet/train \\
    --config.data.name=imagenet256 --autoencoder=sd_vae:vae.safetensors
"""
NOTES = shared.ALL_KEYS


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `prepare`."""
  what, how, where = shared.groups(
    parser,
    'what to prepare',
    'how to prepare',
    'where to write (data.dir/data.name/SPLIT)',
  )
  what.add_argument(
    '--images',
    metavar='IMAGES',
    type=shared.path,
    help='folder or .zip of CLASS/IMAGE, or tfds:NAME[:SPLIT] (docs/data.md '
    'describes ImageNet from its tars)',
  )
  what.add_argument(
    '--config', metavar='FILE', default='configs/base.py',
    help='config file (default: %(default)s)',
  )  # fmt: skip
  how.add_argument(
    '--autoencoder',
    metavar=shared.AUTOENCODER,
    type=shared.path,
    help='autoencoder that encodes the images: its name and its published '
    'files, or their folder (default: none, which keeps pixels)',
  )
  how.add_argument(
    '--image_size',
    metavar='PIXELS',
    type=int,
    default=256,
    help='side of the center crop (default: %(default)s)',
  )
  how.add_argument(
    '--dtype',
    default='float16',
    help='type of the mean and std of latents, float16 or float32 '
    '(default: %(default)s)',
  )
  how.add_argument(
    '--max_broken',
    metavar='N',
    type=int,
    default=100,
    help='largest number of broken images to skip (default: %(default)s)',
  )
  how.add_argument(
    '--batch_size',
    metavar='N',
    type=int,
    default=64,
    help='images per call of the encoder, on each process '
    '(default: %(default)s)',
  )
  how.add_argument(
    '--threads',
    metavar='N',
    type=int,
    default=16,
    help='threads that read images (default: %(default)s)',
  )
  where.add_argument(
    '--split',
    metavar='NAME',
    default='train',
    help='split to write (default: %(default)s)',
  )
  where.add_argument(
    '--shard_records',
    metavar='N',
    type=int,
    default=4096,
    help='images per file (default: %(default)s)',
  )
  where.add_argument(
    '--verify',
    action='store_true',
    help='check all records of the split, and write nothing',
  )
  shared.add_processes(parser)
