import json

import pytest
from command_runs import ROOT, change_json, refused_line, succeed
from etils import epath
from refusals import refused

from core.errors import InputError
from core.files import parse_json, read_json
from evaluate.sweep import read_points
from train import config_file
from train.metrics_log import read_metrics

DAMAGED = {
  'brackets': '[' * 100_000,
  'objects': '{"a":' * 100_000,
  'levels': '{"a":' * 400 + '1' + '}' * 400,
  'digits': '{"num": ' + '9' * 5000,
  'cut': '{"protocol": {"nu',
  'empty': '',
  'list': '[1, 2]',
  'word': 'null',
  'bytes': '\udcff\udcfe{}',
  'other': '{"protocol": 1, "packages": [], "command": 7, "guidance": {}}',
}


@pytest.fixture
def workdir(tmp_path):
  config = config_file.load_config(str(ROOT / 'configs/digits.py')).to_dict()
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/config.json').write_text(json.dumps(config))
  return tmp_path / 'run'


def write(path, text):
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(text.encode(errors='surrogateescape'))


@pytest.mark.parametrize('kind', DAMAGED)
def test_damaged_json_is_one_line(tmp_path, kind):
  path = tmp_path / 'found.json'
  write(path, DAMAGED[kind])
  if kind == 'other':
    assert read_json(path)['protocol'] == 1
    return
  with refused('damaged', 'delete it') as caught:
    read_json(path, '; delete it')
  assert len(str(caught.value)) < 500


def test_missing_json_is_one_line(tmp_path):
  for path in (tmp_path / 'absent.json', tmp_path, tmp_path / ('a' * 5000)):
    with pytest.raises(InputError, match='cannot be read'):
      read_json(path)


def test_endless_integers_are_floats():
  assert parse_json(str(2**63 - 1)) == 2**63 - 1
  assert parse_json('1' + '0' * 300) == 1e300
  assert parse_json('9' * 5000) == float('inf')


@pytest.mark.parametrize('kind', DAMAGED)
def test_report_leaves_out_what_is_damaged(workdir, kind):
  for beside in ('table.md', 'sweep/sweep.csv', 'sweep/sweep.png'):
    write(workdir / beside, '| a |\n|---|\n| 1 |\n')
  files = ('run.json', 'compare.json', 'sweep/sweep.json')
  for name in (*files, 'metrics.jsonl'):
    write(workdir / name, DAMAGED[kind])
  result = succeed('report', f'--workdir={workdir}', '--no_draw')
  assert 'Traceback' not in result.err
  page = (workdir / 'report.html').read_text()
  assert page.count('is damaged') >= len(files)


@pytest.mark.parametrize('line', [
  '[' * 100_000,
  '{"step": 1, "loss": ' + '1' * 400 + '}',
  '{"step": 1, "loss": ' + '1' * 5000 + '}',
  '{"step": 1, "loss": 1e999}',
  '{"step": 1e300, "loss": 1}',
  '{"step": 1, "loss": NaN}',
  '{"step": true, "loss": 1}',
])  # fmt: skip
def test_damaged_lines_of_metrics_are_left_out(tmp_path, line):
  good = '{"step": 5, "loss": 0.5}'
  (tmp_path / 'metrics.jsonl').write_text(f'{good}\n{line}\n{good}\n')
  assert read_metrics(tmp_path) == 2 * [{'step': 5, 'loss': 0.5}]


@pytest.mark.parametrize(
  'text',
  ['', 'ig,fd\n1,2,3\n', 'ig,fd\n1\n', 'ig,fd\n1,one\n', '\0\n', '"' * 9,
   'ig,fd\n"1,2\n', 'a' * 200_000],
)  # fmt: skip
def test_damaged_points_of_a_sweep_are_one_line(tmp_path, text):
  (tmp_path / 'sweep.csv').write_text(text)
  path = epath.Path(tmp_path / 'sweep.csv')
  try:
    names, points = read_points(path)
  except InputError as error:
    assert 'is damaged' in str(error)
    assert str(error).isprintable()
  else:  # The file has column names but no points.
    assert names and points == []


@pytest.mark.parametrize('kind', sorted(DAMAGED.keys() - {'other'}))
@pytest.mark.parametrize('command', ['sample', 'compare', 'report'])
def test_damaged_config_of_a_run_is_one_line(workdir, kind, command):
  write(workdir / 'config.json', DAMAGED[kind])
  line = refused_line(command, f'--workdir={workdir}')
  assert 'config.json is damaged' in line


@pytest.mark.parametrize(
  'change',
  [{'model': []}, {'model': {'a.b': 1}}, {'seed': {}}, {'train': None},
   {'sample': {'steps': [[[]]]}}, {'data': {'name': {'x': 1}}}],
)  # fmt: skip
def test_config_of_a_run_with_values_of_another_kind(workdir, change):
  def merge(config):
    for key, value in change.items():
      both = value and isinstance(value, dict) and isinstance(config[key], dict)
      config[key] = config[key] | value if both else value

  change_json(workdir / 'config.json', merge)
  refused_line('sample', f'--workdir={workdir}')
