"""Flags of the command `distill`."""

import argparse

from commands.flags import shared

SUMMARY = (
  'train a few-step student of a network; the same command again resumes'
)
USAGE = '--config=FILE --teacher=PLACE --workdir=RUN'
EXAMPLES = """
One student, and a recipe of several stages (docs/distillation.md):
  python main.py distill --config=configs/distill/digits.py:hybrid,4 \\
    --teacher=runs/digits --workdir=runs/hybrid4
  python main.py distill --config=configs/distill/digits.py:flash,4 \\
    --teacher=runs/digits --workdir=runs/flash4
"""
NOTES = '--config.KEY=VALUE sets any key of configs/distill/base.py.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `distill`."""
  subject, method, output = shared.groups(
    parser, 'what to distill', 'how to distill', 'where to write'
  )
  subject.add(
    '--config=FILE',
    'config file in configs/distill/',
    type=shared.path,
    required=True,
  )
  subject.add(
    '--teacher=PLACE',
    'teacher: a run (its EMA weights) or a folder of weights',
    type=shared.path,
    required=True,
  )
  shared.add_autoencoder(method)
  shared.add_stopped_status(method)
  output.add('--workdir=RUN', 'folder of the student', type=shared.path)
  shared.add_dry_run(parser)
  shared.add_processes(parser)
