"""Flags of the command train-features."""

import argparse

from commands.flags import shared

SUMMARY = 'train a classifier as feature extractor for distances'
USAGE = '--to=FOLDER [--config=FILE]'
EXAMPLES = """
  python main.py train-features --config=configs/cifar10.py \\
    --to=features/cifar10
"""
NOTES = 'Other commands read it with --extractor=classifier:features/cifar10.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `train-features`."""
  what, how, where = shared.groups(
    parser, 'real images', 'how to train', 'where to write'
  )
  what.add_argument(
    '--config',
    metavar='FILE',
    default='configs/digits.py',
    help='config file that names the images (default: %(default)s)',
  )
  shared.add_autoencoder(what)
  how.add_argument(
    '--steps',
    metavar='N',
    type=int,
    help='training steps (default: by image size)',
  )
  shared.add_target(where)
  shared.add_processes(parser)
