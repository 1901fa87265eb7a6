"""Flags of the command reference."""

import argparse

from commands.flags import shared

DESCRIPTION = 'compute statistics of real images, for evaluate --reference'
EPILOG = """\
Example:
  python main.py reference --images=imagenet/train --to=imagenet256.npz \\
    --config.eval.image_size=256 --extractor=inception:FILE
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `reference`."""
  parser.add_argument(
    '--images',
    dest='reference',
    metavar='IMAGES',
    type=shared.path,
    help='an .npz, a folder, a .zip, tfds:NAME:SPLIT (the training split)',
  )
  shared.add_target(parser)
  shared.add_real_images_config(parser)
  shared.add_autoencoder(parser)
  shared.add_extractor(parser)
  shared.add_processes(parser)
