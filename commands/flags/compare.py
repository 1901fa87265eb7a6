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
SWEEP_METHODS = ('ig', 'cfg')


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `compare`."""
  shared.add_workdir(parser)
  parser.add_argument(
    '--guidance',
    action='append',
    help='guidance of a row, as for sample; repeat it for more rows '
    f'({"; ".join(METHODS)}: those that the network can do)',
  )
  parser.add_argument(
    '--num', type=int, default=500, help='images per method (%(default)s)'
  )
  parser.add_argument(
    '--sweep_methods',
    type=shared.words,
    help='methods whose scale is swept alone, separated by commas, or none '
    f'({",".join(SWEEP_METHODS)}, likewise)',
  )
  parser.add_argument(
    '--sweep_scales',
    type=shared.scales,
    default=(1.0, 1.25, 1.5, 2.0, 2.5, 3.0),
    help='their scales, separated by commas (1,1.25,1.5,2,2.5,3)',
  )
  parser.add_argument(
    '--bootstrap',
    type=int,
    default=50,
    help='number of resamples for a standard error (%(default)s)',
  )
  parser.add_argument(
    '--extractor',
    help='classifier that was trained before, as classifier:FOLDER (one is '
    'trained)',
  )
  shared.add_source(parser)
