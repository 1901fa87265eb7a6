"""Flags of the command report."""

import argparse

from commands.flags import shared

DESCRIPTION = 'show a run as an HTML page: config, curves, samples, film strips'
EPILOG = f"""{shared.FREE_KEYS}
Example: python main.py report --workdir=runs/digits --guidance=ig:1.5 \\
           --guidance=s2:1.5
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `report`."""
  shared.add_workdir(parser)
  parser.add_argument(
    '--guidance',
    action='append',
    default=[],
    help='guidance to sample with, as for sample; repeat the flag for more '
    'methods (log.preview_guidance and the methods of the last compare)',
  )
  parser.add_argument(
    '--no_draw',
    action='store_true',
    help='show only existing results: read no weights and draw no samples',
  )
  shared.add_source(parser)
