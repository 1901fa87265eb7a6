"""Flags of the command `reference`."""

import argparse

from commands.flags import shared

SUMMARY = 'compute statistics of real images, for evaluate --reference'
USAGE = '--to=PATH [--images=IMAGES]'
EXAMPLES = """
  python main.py reference --images=imagenet/train --to=imagenet256.npz \\
    --config.eval.image_size=256 --extractor=inception:FILE
"""
NOTES = '--config.eval.KEY=VALUE sets details of the metrics (configs/base.py).'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `reference`."""
  subject, method, output = shared.groups(
    parser, 'real images', 'how to measure', 'where to write'
  )
  subject.add(
    '--images=IMAGES',
    'real images: an .npz, a folder, a .zip or tfds:NAME:SPLIT (default: the '
    'training split)',
    dest='reference',
    type=shared.path,
  )
  shared.add_real_images_config(subject)
  shared.add_extractor(method)
  shared.add_autoencoder(method)
  shared.add_target(output)
  shared.add_processes(parser)
