"""Reads a command line: a command, its flags and its config assignments.

The module does not import JAX, so an invalid flag is reported immediately.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from commands import flags
from core import program, suggestions
from core.errors import InputError, nearest
from train import config_file

VERSION = '0.1.0'
_PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint')


class _Parser(argparse.ArgumentParser):
  """A parser that raises InputError instead of exiting."""

  def format_help(self) -> str:
    """Returns the help text; the user's command replaces `python main.py`."""
    return program.localize(super().format_help())

  def error(self, message: str) -> NoReturn:
    raise InputError(message)


def parse_args(argv: Sequence[str], text: str) -> argparse.Namespace:
  """Returns the command, its flags, and config assignments (as `overrides`).

  `argv` has the words after the program's name, and --help shows `text`. Raises
  InputError if the command, a flag or a config key is unknown, and SystemExit
  with status 0 after --help or --version.
  """
  words, overrides = [], []
  for word in argv:
    if word.startswith('--config.'):
      overrides.append(word.removeprefix('--config.'))
    else:
      words.append(word)
  parser = _Parser(
    prog=program.name(),
    description=text,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--version', action='version', version=version())
  commands = flags.add_commands(parser)
  hint = f'the commands are {", ".join(commands)}.'
  if not words:
    parser.print_help()
    raise InputError(f'no command; {hint}')
  if words[0] in commands:
    _check_flags(words, commands[words[0]])
  elif words[0] not in ('-h', '--help', '--version'):
    guess = nearest(words[0], (*commands, '--help', '--version'))
    raise InputError(f'unknown command {words[0]!r}; {hint}{guess}')
  args = parser.parse_args(words)
  if args.topology is not None and not args.dry_run:
    raise InputError('--topology is for --dry_run.')
  if overrides and args.command == 'convert':
    raise InputError(f'convert reads no config: leave out {overrides[0]!r}.')
  config_file.check_keys(overrides)
  _check_eval_keys(overrides, args)
  args.overrides = overrides
  return args


def run(args: argparse.Namespace) -> int:
  """Runs the module of the command and returns the exit status."""
  # These modules import JAX, which takes seconds, so flags are checked first.
  from core import cluster, signals
  from train.metrics_log import set_up_logging

  module = importlib.import_module(f'commands.{args.command.replace("-", "_")}')
  set_up_logging()
  cluster.join(args)
  with signals.end_on_sigterm(args.command):
    return module.run(args) or 0


def version() -> str:
  """Returns the versions of the project, its commit and its libraries."""
  packages = [f'{name} {metadata.version(name)}' for name in _PACKAGES]
  python = '.'.join(map(str, sys.version_info[:3]))
  commit = program.commit()
  title = f'selfguide {VERSION}' + (f' (commit {commit[:7]})' if commit else '')
  return ', '.join([title, *packages, f'Python {python}'])


def _check_eval_keys(
  overrides: Sequence[str], args: argparse.Namespace
) -> None:
  """Raises InputError for an assignment to eval.NAME if --NAME exists."""
  for assignment in overrides:
    key, _, value = assignment.partition('=')
    section, _, name = key.partition('.')
    if section == 'eval' and name in vars(args):
      is_images = (args.command, name) == ('reference', 'reference')
      flag = '--images' if is_images else f'--{name}'
      raise InputError(
        f'{args.command} takes {flag}={value}; the config key {key} is for '
        'evaluation during training.'
      )


def _check_flags(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
  """Raises InputError for an unknown flag, before argparse sees the words."""
  command, *rest = words
  names = [flag for flag in parser._option_string_actions if flag != '-h']
  for word in rest:
    flag = word.partition('=')[0]
    if re.match(r'--|-[a-zA-Z]', flag) and flag not in (*names, '-h'):
      guess = suggestions.for_flag(
        flag, names, trains=command in ('train', 'distill')
      )
      raise InputError(
        f'{command} has no flag {flag}.{guess} python main.py {command} --help '
        'lists all.'
      )
