"""The program's name (main.py or selfguide), and the commit of its code."""

import pathlib
import shutil
import subprocess
import sys


def name() -> str:
  """Returns the program's name, for usage texts and error messages."""
  script = pathlib.Path(sys.argv[0]).stem
  return script if script == 'selfguide' else 'main.py'


def command() -> list[str]:
  """Returns the words that start the program on a command line."""
  return ['selfguide'] if name() == 'selfguide' else ['python', 'main.py']


def localize(text: str) -> str:
  """Replaces `python main.py` in a text by the user's own command."""
  return text.replace('python main.py', ' '.join(command()))


def commit() -> str | None:
  """Returns the commit of the code; None if git does not track this file.

  For an untracked copy inside another repository, HEAD is an unrelated commit.
  """
  path = pathlib.Path(__file__)
  if not shutil.which('git'):
    return None

  def git(*words: str) -> str:
    return subprocess.run(
      ['git', *words], cwd=path.parent, capture_output=True, text=True,
      check=False,
    ).stdout.strip()  # fmt: skip

  return (git('ls-files', path.name) and git('rev-parse', 'HEAD')) or None
