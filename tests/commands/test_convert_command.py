import json
import os
import re
import subprocess
import sys

import command_runs
import numpy as np
import pytest
from command_runs import ROOT, contents
from safetensors.numpy import load_file

from commands import convert as exchange
from commands.flags import convert as flags

GOLDEN = ROOT / 'tests' / 'golden' / 'ig_sit' / 'model.safetensors'
IG_SIT = ('--family=ig_sit', '--num_heads=4', '--taps=2')


def run(*argv):
  return command_runs.run('convert', *argv)


@pytest.fixture
def refused(tmp_path):

  def check(argv, *words):
    before = contents(tmp_path)
    result = run(*argv)
    assert result.status == 2
    assert result.out == ''
    assert result.err.startswith('main.py: ')
    assert result.err.count('\n') == 1
    for word in words:
      assert word in result.err
    assert contents(tmp_path) == before

  return check


def test_golden_file_to_a_folder_and_back(tmp_path):
  net, back = tmp_path / 'net', tmp_path / 'back.safetensors'
  expected = load_file(GOLDEN)
  count = sum(tensor.size for tensor in expected.values())
  there = subprocess.run(
    [sys.executable, 'main.py', 'convert', f'--from={GOLDEN}', f'--to={net}',
     *IG_SIT],
    cwd=ROOT, capture_output=True, text=True, timeout=240,
  )  # fmt: skip
  assert (there.returncode, there.stderr) == (0, '')
  said = f'{GOLDEN} -> {net}: {count:,} parameters in '
  assert there.stdout.startswith(said)
  assert there.stdout.endswith('tensors, weights: as stored, family: ig_sit\n')
  assert json.loads((net / 'config.json').read_text())['model']['taps'] == [2]
  result = run(f'--from={net}', f'--to={back}')
  assert result.status == 0
  assert f'{count:,} parameters in {len(expected)} tensors' in result.out
  tensors = load_file(back)
  assert tensors.keys() == expected.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(tensor, expected[name])


def test_help_has_an_example_of_each_pair():
  result = run('--help')
  assert (result.status, result.err) == (0, '')
  for words in (
    '--from=SiT.pt --to=sit --family=ig_sit --taps=8',
    '--from=hf://org/name/',
    '--from=sit --to=sit.safetensors',
    '--from=runs/digits --to=digits',
    '--weights=raw',
    '--to=digits-int8 --quantize=int8',
    'requirements-torch.txt',
    'requirements-hub.txt',
    'ig_lightningdit',
  ):
    assert words in result.out
  assert max(map(len, result.out.splitlines())) <= 80


def test_every_example_is_understood(monkeypatch):
  asked = []

  def convert(source, target, **options):
    asked.append((source, target))
    return f'{source} -> {target}'

  monkeypatch.setattr(exchange, 'exchange', convert)
  examples = re.findall(r'^  python main.py convert(.*)', flags.EXAMPLES, re.M)
  for words in examples:
    assert run(*words.split()).status == 0
  assert len(asked) == len(examples) == 9


@pytest.mark.parametrize('argv, words', [
  ([], ['--from', '--to']),
  (['--from=a'], ['--to']),
  (['--from=', '--to=b'], ['--from', 'is empty']),
  (['--from=a', '--to='], ['--to', 'is empty']),
  (['--from=a', '--to=b', '--famly=dit'], ['--famly']),
  (['--from=a', '--to=b', '--taps=x'], ['--taps', "'x'", 'such as 8']),
  (['--from=a', '--to=b', '--taps='], ['--taps']),
  (['--from=a', '--to=b', '--num_heads=x'], ['--num_heads', "'x'"]),
  (['--from=a', '--to=b', '--weights=params'], ['--weights', "'params'"]),
  (['--from=a', '--to=b', '--workdir=c'], ['--workdir']),
  (['--from=a', '--to=b', '--config.seed=3'], ['reads no config', 'seed=3']),
  (['--from=a', '--to=b', '--family=ig_sti'], ["Did you mean 'ig_sit'"]),
  (['--from=a', '--to=b', '--quantize=int7'], ['int7', "mean 'int"]),
  (['--from=a', '--to=b.safetensors', '--quantize=int8'],
   ['b.safetensors', 'folder of weights']),
  (['--from=no-such-file', '--to=b'], ['no-such-file does not exist']),
  (['--from=a', '--to=b.pt'], ['b.pt', 'pickle', '.safetensors']),
])  # fmt: skip
def test_bad_arguments(refused, tmp_path, monkeypatch, argv, words):
  monkeypatch.chdir(tmp_path)
  refused(argv, *words)


def test_malicious_pickle(refused, tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')

  class Bomb:
    def __reduce__(self):
      return os.system, (f'touch {tmp_path}/marker',)

  torch.save({'ema': {'a': torch.ones(2)}, 'args': Bomb()}, tmp_path / 'x.pt')
  refused([f'--from={tmp_path}/x.pt', f'--to={tmp_path}/net', *IG_SIT],
          'posix.system', 'refused')  # fmt: skip
  assert not (tmp_path / 'marker').exists()
