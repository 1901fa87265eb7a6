"""Flags of the command train-features."""

import argparse

from commands.flags import shared

DESCRIPTION = 'train a classifier as feature extractor for distances'
EPILOG = """\
Example:
  python main.py train-features --config=configs/cifar10.py \\
    --to=features/cifar10
Then: --extractor=classifier:features/cifar10
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `train-features`."""
  parser.add_argument(
    '--steps', type=int, help='training steps (by image size)'
  )
  shared.add_target(parser)
  parser.add_argument(
    '--config', default='configs/digits.py', help='config file (%(default)s)'
  )
  shared.add_autoencoder(parser)
  shared.add_processes(parser)
