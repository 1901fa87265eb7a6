"""Flags of the command distill."""

import argparse

from commands.flags import shared

DESCRIPTION = (
  'train a few-step student of a network; the same command again resumes'
)
EPILOG = f"""{shared.ALL_KEYS}
The first example trains one student. The second runs a recipe of several
stages (docs/distillation.md).
Examples:
  python main.py distill --config=configs/distill/digits.py:hybrid,4 \\
    --teacher=runs/digits --workdir=runs/hybrid4
  python main.py distill --config=configs/distill/digits.py:flash,4 \\
    --teacher=runs/digits --workdir=runs/flash4
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `distill`."""
  parser.add_argument(
    '--config',
    type=shared.path,
    required=True,
    help='config file in configs/distill/',
  )
  parser.add_argument(
    '--teacher',
    type=shared.path,
    required=True,
    help='run (its averaged weights) or folder of weights',
  )
  parser.add_argument(
    '--workdir', type=shared.path, help='folder of the student'
  )
  shared.add_autoencoder(parser)
  shared.add_stopped_status(parser)
  shared.add_processes(parser)
  shared.add_dry_run(parser)
