"""Flags of the command `sweep`."""

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
  subject, score, method, output = shared.groups(
    parser, 'what to sweep', 'how to score', 'how to sample', 'where to write'
  )
  shared.add_workdir(subject)
  subject.add(
    '--guidance=METHODS',
    'guidance in the syntax of sample --guidance, where one or two scales are '
    'ranges LOW..HIGH:COUNT',
    required=True,
  )
  subject.add('--num=N', 'number of images per point of the grid', default=500)
  shared.add_weights(subject)
  score.add(
    '--metric=NAME',
    'one of the metrics of evaluate --metrics',
    default='fd',
    type=shared.metric,
  )
  shared.add_extractor(score)
  shared.add_reference_flag(score)
  shared.add_standard_errors(score)
  shared.add_guide(method)
  shared.add_autoencoder(method)
  shared.add_out(output)
  shared.add_overwrite(output)
