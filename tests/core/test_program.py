import shutil
import subprocess

import pytest
from command_runs import run

from commands import advice
from core import program


@pytest.mark.parametrize('script, name, words', [
  ('/venv/bin/selfguide', 'selfguide', 'selfguide'),
  ('main.py', 'main.py', 'python main.py'),
  ('/venv/pytest/__main__.py', 'main.py', 'python main.py'),
])  # fmt: skip
def test_texts_name_the_program_that_was_called(
  script, name, words, monkeypatch
):
  monkeypatch.setattr('sys.argv', [script])
  assert program.name() == name
  assert ' '.join(program.command()) == words
  assert advice.command('report', '--step=1') == f'{words} report --step=1'
  result = run('train', '--help')
  assert f'usage: {name} train' in result.out
  assert f'examples:\n  {words} train --workdir' in result.out
  result = run('train', '--zebra')
  assert result.err == (
    f'{name}: train has no flag --zebra. {words} train --help lists all.\n'
  )


def test_commit_of_another_project_is_not_ours(tmp_path, monkeypatch):
  """`commit` ignores an outer repository that does not track the code."""

  def git(*words):
    subprocess.run(
      ['git', '-c', 'user.name=a', '-c', 'user.email=b', *words],
      cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip

  copy = tmp_path / 'site-packages' / 'program.py'
  copy.parent.mkdir()
  shutil.copy(program.__file__, copy)
  monkeypatch.setattr(program, '__file__', str(copy))
  assert program.commit() is None
  git('init')
  git('commit', '--allow-empty', '-m', 'theirs')
  assert program.commit() is None
  git('add', str(copy))
  git('commit', '-m', 'ours')
  head = (tmp_path / '.git' / 'HEAD').read_text().split()[-1]
  assert program.commit() == (tmp_path / '.git' / head).read_text().strip()
