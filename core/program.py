"""The name under which the program was called: main.py or selfguide."""

import pathlib
import sys


def name() -> str:
  """Returns the program's name, for usage and errors."""
  script = pathlib.Path(sys.argv[0]).stem
  return script if script == 'selfguide' else 'main.py'


def command() -> list[str]:
  """Returns the first words of a command line."""
  return ['selfguide'] if name() == 'selfguide' else ['python', 'main.py']


def localize(text: str) -> str:
  """Replaces `python main.py` in a text by the words that the user gave."""
  return text.replace('python main.py', ' '.join(command()))
