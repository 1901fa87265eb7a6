"""Flags of the command compare."""

import argparse

from commands.flags import shared

DESCRIPTION = 'compare guidance methods side by side: a table and pictures'
EPILOG = f"""{shared.FREE_KEYS}
Example: python main.py compare --workdir=runs/digits --num=1000 \\
           --guidance=none --guidance=ig:1.5 --guidance=ig:1.5,cfg:1.2
"""
# S2 is published on top of CFG, with omega 0.25.
METHODS = ('none', 'cfg:1.35', 'ig:1.4', 'cfg:1.35,s2:1.25')


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `compare`."""
  shared.add_workdir(parser)
  parser.add_argument(
    '--guidance',
    action='append',
    help='guidance of a row, as for sample; repeat the flag for more rows '
    f'(the methods among {"; ".join(METHODS)} that the network supports)',
  )
  parser.add_argument(
    '--num', type=int, default=500, help='images per method (%(default)s)'
  )
  parser.add_argument(
    '--bootstrap',
    type=int,
    default=50,
    help='number of resamples for a standard error (%(default)s)',
  )
  parser.add_argument(
    '--extractor',
    help='classifier trained earlier, as classifier:FOLDER (a new classifier)',
  )
  shared.add_source(parser)
