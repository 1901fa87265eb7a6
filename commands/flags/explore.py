"""Flags of the command `explore`."""

import argparse

from commands.flags import shared

SUMMARY = 'move guidance scales on a local page and watch the images change'
USAGE = '(--workdir=RUN | --folder=FOLDER)'
EXAMPLES = """
  python main.py explore --workdir=runs/digits
"""
NOTES = (
  'Needs Gradio: pip install "selfguide[explore]", or pip install gradio.\n'
  + shared.FREE_KEYS
)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `explore`."""
  subject, method, server = shared.groups(
    parser, 'what to sample from', 'how to sample', 'where to serve'
  )
  shared.add_source(subject)
  shared.add_weights(subject)
  shared.add_guide(method)
  shared.add_autoencoder(method)
  server.add(
    '--host=ADDRESS',
    'address to serve on; 0.0.0.0 admits other machines',
    default='127.0.0.1',
  )
  server.add('--port=N', 'port to serve on', default=7860)
  server.add('--browser', 'open the page in a browser')
  server.add(
    '--out=FOLDER',
    'folder that the command on the page writes to (default: explored, in the '
    'workdir)',
    type=shared.path,
  )
