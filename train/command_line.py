"""From a command line to a command, its flags and its config assignments."""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from dit.errors import InputError, nearest
from train import flags


class _Parser(argparse.ArgumentParser):
  """Errors are one line, with the nearest known word."""

  def error(self, message: str) -> NoReturn:
    raise InputError(message)


def parse_args(
  argv: Sequence[str], text: str, runs: Mapping[str, flags.Run]
) -> argparse.Namespace:
  """Reads a command line.

  Args:
    argv: without the program's name.
    text: what --help says of the program.
    runs: what carries out each command.

  Returns:
    The flags, `run`, and `overrides`, the assignments of --config.KEY=VALUE.

  Raises:
    InputError: for what is no command or no flag.
  """
  rest, overrides = [], []
  for word in argv:
    if word.startswith('--config.'):
      overrides.append(word.removeprefix('--config.'))
    else:
      rest.append(word)
  parser = _Parser(
    prog='main.py',
    description=text,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  commands = flags.add_commands(parser, runs)
  known = f'the commands are {", ".join(runs)}.'
  if not rest:
    raise InputError(f'no command; {known}')
  if rest[0] not in (*runs, '-h', '--help'):
    near = nearest(rest[0], (*runs, '--help'))
    raise InputError(f'unknown command {rest[0]!r}; {known}{near}')
  if rest[0] in runs:
    _check_flags(rest, commands[rest[0]])
  args = parser.parse_args(rest)
  if overrides and args.command == 'convert':
    raise InputError(f'convert reads no config: leave out {overrides[0]!r}.')
  args.overrides = overrides
  return args


def _check_flags(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
  """Raises InputError for what is no flag, before one is missed for it."""
  command, *rest = words
  known = re.findall(r'--[a-z][a-z_0-9]*', parser.format_usage())
  for word in rest:
    flag = word.partition('=')[0]
    if flag.startswith('--') and flag not in (*known, '--help'):
      raise InputError(
        f'{command} has no flag {flag}.{nearest(flag, known)} python main.py '
        f'{command} --help lists all.'
      )
