"""Flags of the command sample."""

import argparse

from commands.flags import shared

DESCRIPTION = (
  'sample images from a run or a folder of weights; the same command again '
  'resumes'
)
EPILOG = f"""{shared.FREE_KEYS}
Examples:
  python main.py sample --workdir=runs/digits \\
    --guidance=ig:1.5,cfg:1.2@0-0.7 --config.sample.steps=100
  python main.py sample --folder=sit-xl-ig --num=16 \\
    --preset=sit_xl_ig_cfg --autoencoder=sd_vae:vae.safetensors
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `sample`."""
  where = parser.add_mutually_exclusive_group(required=True)
  where.add_argument('--workdir', type=shared.path, help='folder of the run')
  where.add_argument(
    '--folder',
    type=shared.web_path,
    help='folder of weights written by convert',
  )
  where.add_argument(
    '--config', type=shared.path, help='config file, for --dry_run only'
  )
  shared.add_drawing(parser)
  parser.add_argument(
    '--num', type=int, help='number of images (100; with --preset: 50,000)'
  )
  parser.add_argument(
    '--format',
    choices=shared.FORMATS,
    default='npz',
    help='one samples.npz for the ADM evaluator, or a folder of PNG files '
    '(%(default)s)',
  )
  shared.add_overwrite(parser)
  shared.add_source(parser)
  shared.add_processes(parser)
  shared.add_dry_run(parser, topology=True)
