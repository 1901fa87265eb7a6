"""Flags of the command `compare`."""

import argparse

from commands.flags import shared

SUMMARY = 'compare guidance methods side by side: a table and pictures'
USAGE = '--workdir=RUN [--guidance=METHODS ...]'
EXAMPLES = """
  python main.py compare --workdir=runs/digits --num=1000 \\
    --guidance=none --guidance=ig:1.5 --guidance=ig:1.5,cfg:1.2
"""
NOTES = shared.FREE_KEYS
# S2-Guidance is published with CFG and omega 0.25, which is our scale 1.25.
METHODS = ('none', 'cfg:1.35', 'ig:1.4', 'cfg:1.35,s2:1.25')


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `compare`."""
  subject, method, output = shared.groups(
    parser, 'what to compare', 'how to compare', 'where to write'
  )
  shared.add_workdir(subject)
  subject.add(
    '--guidance=METHODS',
    'guidance of one row, in the syntax of sample --guidance; repeat the flag '
    f'for more rows (default: {", ".join(repr(m) for m in METHODS)}, without '
    'those that the network does not support)',
    action='append',
  )
  shared.add_weights(subject)
  method.add('--num=N', 'number of images per method', default=500)
  method.add(
    '--bootstrap=N', 'number of resamples for the standard error', default=50
  )
  method.add(
    '--match_cfg',
    'also compare, for each method, CFG at the effective scale of the method',
  )
  method.add(
    '--extractor=NAME',
    'feature extractor classifier:FOLDER, trained earlier (default: the '
    'classifier of the training split, trained once)',
  )
  shared.add_guide(method)
  shared.add_autoencoder(method)
  shared.add_out(output)
