"""The flags of every command, with one module per command."""

import argparse
from collections.abc import Mapping

from commands.flags import (
  compare,
  convert,
  distill,
  evaluate,
  explore,
  prepare,
  reference,
  report,
  sample,
  sweep,
  train,
  train_features,
)

COMMANDS = {
  'prepare': prepare,
  'train': train,
  'distill': distill,
  'sample': sample,
  'compare': compare,
  'sweep': sweep,
  'evaluate': evaluate,
  'report': report,
  'explore': explore,
  'reference': reference,
  'train-features': train_features,
  'convert': convert,
}


def add_commands(
  parser: argparse.ArgumentParser,
) -> Mapping[str, argparse.ArgumentParser]:
  """Adds every command; returns each command's parser, by name."""
  # Defaults for commands that lack these flags.
  parser.set_defaults(folder=None, topology=None, distributed=False)
  parser.set_defaults(coordinator=None, num_processes=None, process_id=None)
  commands = parser.add_subparsers(dest='command', metavar='COMMAND')
  for name, module in COMMANDS.items():
    summary = module.SUMMARY
    module.add_flags(
      commands.add_parser(
        name,
        help=summary,
        usage=f'%(prog)s {module.USAGE} [FLAG ...]',
        description=f'{summary}\n\nexamples:{module.EXAMPLES}',
        epilog=module.NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
      )
    )
  return commands.choices
