"""Flags of the command sweep."""

import argparse

from commands.flags import shared

SUMMARY = 'measure a metric over guidance scales: a table and a picture'
USAGE = '--workdir=RUN --guidance=METHODS'
EXAMPLES = """
  python main.py sweep --workdir=runs/digits \\
    --guidance=ig:1.0..2.0:6,cfg:1.0..2.0:6 --metric=fd
"""
NOTES = shared.FREE_KEYS


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `sweep`."""
  what, score, how, where = shared.groups(
    parser, 'what to sweep', 'how to score', 'how to sample', 'where to write'
  )
  shared.add_workdir(what)
  what.add_argument(
    '--guidance',
    metavar='METHODS',
    required=True,
    help='guidance as for sample, with one or two scales LOW..HIGH:COUNT '
    '(required)',
  )
  what.add_argument(
    '--num',
    metavar='N',
    type=int,
    default=500,
    help='images per point (default: %(default)s)',
  )
  shared.add_weights(what)
  score.add_argument(
    '--metric',
    metavar='NAME',
    type=shared.metric,
    default='fd',
    help='metric, as for evaluate --metrics (default: %(default)s)',
  )
  shared.add_extractor(score)
  shared.add_reference_flag(score)
  shared.add_standard_errors(score)
  shared.add_guide(how)
  shared.add_autoencoder(how)
  shared.add_out(where)
  shared.add_overwrite(where)
