"""Flags of the command compare."""

import argparse

from commands.flags import shared

DESCRIPTION = 'compare guidance methods side by side: a table and pictures'
EPILOG = f"""{shared.FREE_KEYS}
Example: python main.py compare --workdir=runs/digits --config.compare.num=1000
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `compare`."""
  shared.add_workdir(parser)
  shared.add_source(parser)
