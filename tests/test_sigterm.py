import signal

import pytest
from command_runs import run

from evaluate import sweep
from evaluate.evaluator import Evaluator
from sample.image_folder import ImageFolder


@pytest.mark.parametrize(
  ('command', 'owner', 'moment', 'kept'),
  [
    ('sample', ImageFolder, '_make_folder', 'finished images are kept'),
    ('sweep', sweep, '_as_csv', 'measured points are kept'),
    ('evaluate', Evaluator, 'summarize', 'nothing unfinished is kept'),
  ],
)
def test_sigterm_says_what_is_kept(
  argv, tmp_path, monkeypatch, command, owner, moment, kept
):
  whole, calls = getattr(owner, moment), []

  def terminated(*args, **kwargs):
    calls.append(moment)
    if len(calls) == 2 or command == 'evaluate':
      signal.raise_signal(signal.SIGTERM)
    return whole(*args, **kwargs)

  monkeypatch.setattr(owner, moment, terminated)
  words = argv(command, tmp_path / 'out')
  result = run(*words)
  assert result.status == 128 + signal.SIGTERM
  (said,) = (line for line in result.err.splitlines() if 'SIGTERM' in line)
  assert kept in said and 'run the same command again' in said
  assert not [*tmp_path.rglob('.*')]
  monkeypatch.undo()
  result = run(*words)
  assert result.status == 0, result.err
  if command == 'sample':
    assert '8 of 20 images exist' in result.err


def test_a_command_without_results_of_its_own_ends_too(tmp_path, monkeypatch):
  monkeypatch.setattr(
    'commands.convert.run',
    lambda args: signal.raise_signal(signal.SIGTERM),
  )
  result = run('convert', f'--from={tmp_path}', f'--to={tmp_path}/x')
  assert result.status == 128 + signal.SIGTERM
  assert 'nothing unfinished is kept' in result.err
