"""The name under which the program was called, and its commit."""

import pathlib
import shutil
import subprocess
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


def commit() -> str | None:
  """Returns the commit of the code, where it is a git checkout."""
  if not shutil.which('git'):
    return None
  git = subprocess.run(
    ['git', 'rev-parse', 'HEAD'],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
    check=False,
  )
  return git.stdout.strip() or None
