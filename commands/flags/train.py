"""Flags of the command `train`."""

import argparse

from commands.flags import shared

SUMMARY = 'train a network; the same command again resumes'
USAGE = '--workdir=RUN [--config=FILE]'
EXAMPLES = """
  python main.py train --workdir=runs/digits --config.optimizer.lr=1e-3
  python main.py train --config=configs/sit.py:XL/2,ig --workdir=runs/xl
"""
NOTES = shared.ALL_KEYS


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `train`."""
  subject, method, output = shared.groups(
    parser, 'what to train', 'how to train', 'where to write'
  )
  subject.add('--config=FILE', 'config file', default='configs/digits.py')
  shared.add_autoencoder(method)
  shared.add_stopped_status(method)
  output.add('--workdir=RUN', 'folder of the run', type=shared.path)
  shared.add_dry_run(parser, topology=True)
  shared.add_processes(parser)
