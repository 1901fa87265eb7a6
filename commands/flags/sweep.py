"""Flags of the command sweep."""

import argparse

from commands.flags import shared

DESCRIPTION = 'measure a metric over guidance scales: a table and a picture'
EPILOG = f"""{shared.FREE_KEYS}
Example: python main.py sweep --workdir=runs/digits \\
           --guidance=ig:1.0..2.0:6,cfg:1.0..2.0:6 --metric=fd
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `sweep`."""
  shared.add_workdir(parser)
  parser.add_argument(
    '--guidance',
    required=True,
    help='guidance as for sample, with one or two scales LOW..HIGH:COUNT',
  )
  parser.add_argument(
    '--metric',
    type=shared.metric,
    default='fd',
    help='metric, as for evaluate --metrics (%(default)s)',
  )
  parser.add_argument(
    '--num', type=int, default=500, help='images per point (%(default)s)'
  )
  shared.add_extractor(parser)
  shared.add_reference_flag(parser)
  shared.add_standard_errors(parser)
  shared.add_overwrite(parser)
  shared.add_source(parser)
