import pytest
from command_runs import run

from commands import advice
from core import program


@pytest.mark.parametrize(
  'script, name, words',
  [
    ('/venv/bin/selfguide', 'selfguide', 'selfguide'),
    ('main.py', 'main.py', 'python main.py'),
    ('/venv/pytest/__main__.py', 'main.py', 'python main.py'),
  ],
)
def test_texts_name_the_program_that_was_called(
  script, name, words, monkeypatch
):
  monkeypatch.setattr('sys.argv', [script])
  assert program.name() == name
  assert advice.command('report', '--step=1') == f'{words} report --step=1'
  result = run('train', '--help')
  assert f'usage: {name} train' in result.out
  assert f'Example: {words} train --workdir' in result.out
  result = run('train', '--zebra')
  assert result.err == (
    f'{name}: train has no flag --zebra. {words} train --help lists all.\n'
  )
