"""Flags of the command evaluate."""

import argparse

from commands.flags import shared

DESCRIPTION = 'score images against real ones: FID, sFID, IS, precision, recall'
EPILOG = """\
Details of the metrics are keys of the section eval of configs/base.py:
--config.eval.KEY=VALUE.
Examples:
  python main.py evaluate --workdir=runs/digits --guidance=ig:1.5 --num=500
  python main.py evaluate --samples=samples.npz --preset=sit_xl_ig_cfg \\
    --reference=VIRTUAL_imagenet256_labeled.npz \\
    --extractor=inception:inception.safetensors
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `evaluate`."""
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument(
    '--samples',
    type=shared.path,
    help='images: an .npz, a folder, a .zip, tfds:NAME:SPLIT',
  )
  what.add_argument(
    '--workdir',
    type=shared.path,
    help='run to sample from; the images are not saved',
  )
  what.add_argument(
    '--folder',
    type=shared.web_path,
    help='folder of weights to sample from',
  )
  shared.add_real_images_config(parser)
  shared.add_extractor(parser)
  shared.add_reference_flag(parser)
  parser.add_argument(
    '--metrics',
    type=shared.metrics,
    help='metrics among fid, sfid, is, kid, precision, recall, fd, accuracy, '
    'fd_inf, separated by commas (all possible ones but fd_inf)',
  )
  shared.add_standard_errors(parser)
  shared.add_drawing(parser)
  parser.add_argument(
    '--num',
    type=int,
    help='number of images in each set (50,000, or all samples)',
  )
  shared.add_source(parser)
  shared.add_processes(parser)
