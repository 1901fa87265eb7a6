"""Flags of the command `report`."""

import argparse

from commands.flags import shared

SUMMARY = 'show a run as an HTML page: config, curves, samples, film strips'
USAGE = '--workdir=RUN [--guidance=METHODS ...]'
EXAMPLES = """
  python main.py report --workdir=runs/digits --guidance=ig:1.5 \\
    --guidance=s2:1.5
"""
NOTES = shared.FREE_KEYS


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `report`."""
  subject, method, output = shared.groups(
    parser, 'what to show', 'how to sample', 'where to write'
  )
  shared.add_workdir(subject)
  subject.add(
    '--guidance=METHODS',
    'guidance of samples, in the syntax of sample --guidance; repeat the flag '
    'for more methods (default: log.preview_guidance, and the methods in the '
    "run's last comparison)",
    action='append',
  )
  subject.add(
    '--no_draw',
    'show only existing results: read no weights and draw no samples',
  )
  shared.add_weights(subject)
  shared.add_guide(method)
  shared.add_autoencoder(method)
  shared.add_out(output)
