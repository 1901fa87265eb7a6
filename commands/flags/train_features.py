"""Flags of the command `train-features`."""

import argparse

from commands.flags import shared

SUMMARY = 'train a classifier as feature extractor for distances'
USAGE = '--to=FOLDER [--config=FILE]'
EXAMPLES = """
  python main.py train-features --config=configs/cifar10.py \\
    --to=features/cifar10
"""
NOTES = 'Other commands then accept --extractor=classifier:features/cifar10.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `train-features`."""
  subject, method, output = shared.groups(
    parser, 'real images', 'how to train', 'where to write'
  )
  subject.add(
    '--config=FILE',
    'config file that names the images',
    default='configs/digits.py',
  )
  shared.add_autoencoder(subject)
  method.add(
    '--steps=N',
    'number of training steps (default: depends on the image size)',
    type=int,
  )
  shared.add_target(output)
  shared.add_processes(parser)
