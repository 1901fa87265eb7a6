"""Flags of the command train."""

import argparse

from commands.flags import shared

DESCRIPTION = 'train a network; the same command again resumes'
EPILOG = f"""{shared.ALL_KEYS}
Example: python main.py train --workdir=runs/digits --config.optimizer.lr=1e-3
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `train`."""
  parser.add_argument('--workdir', type=shared.path, help='folder of the run')
  parser.add_argument(
    '--config', default='configs/digits.py', help='config file (%(default)s)'
  )
  shared.add_autoencoder(parser)
  shared.add_stopped_status(parser)
  shared.add_processes(parser)
  shared.add_dry_run(parser, topology=True)
