"""Tests the studies of docs/results.md: plans, tables and measurements."""

import json
import math
import pathlib

import pytest

from commands import cli
from core.errors import InputError
from distill import sd35_flash
from distill.config import build_student
from dit.sharding import make_mesh
from evaluate.sweep import SweepGrid
from experiments import study, study_plans, study_tables
from guidance import parse
from train.config_file import load_config, override
from train.experiment import build
from train.previews import Previews

BEST = {
  method.name: method.published or 'apg:2' for method in study_plans.METHODS
}


@pytest.fixture(params=study_plans.PLANS)
def rows(request):
  return study_plans.PLANS[request.param]([0, 1], BEST.get)


def test_titles_are_unique_per_seed(rows):
  keys = [(row.title, row.seed) for row in rows]
  assert len(keys) == len(set(keys))


def test_every_seed_has_the_same_titles(rows):
  titles = [[r.title for r in rows if r.seed == seed] for seed in (0, 1)]
  assert titles[0] == titles[1]


def test_commands_and_config_keys_are_valid(rows):
  for row in rows:
    parse(row.guidance)
    for run in (row.run, *row.run.needs):
      for words in run.commands:
        args = cli.parse_args(
          [word.format(out='runs/study', data='data') for word in words], ''
        )
        if words[0] in ('train', 'distill'):
          keys = [*args.overrides]
          if words[0] == 'distill':
            keys.append('distill.teacher=runs/study')
          config = override(load_config(args.config), keys).to_dict()
          if words[0] == 'train':
            experiment = build(config)
            Previews(experiment, make_mesh(experiment.mesh))
            continue
          build_student(config)
          for stage in sd35_flash.stages(args.config, keys)[1]:
            build_student(stage)


def test_grids_contain_valid_guidance():
  for method in study_plans.METHODS:
    for text in SweepGrid.of(method.grid).texts():
      parse(text)


def record(title, seed, fd, **more):
  return {
    'title': title, 'run': f'seed_{seed}', 'seed': seed, 'guidance': 'none',
    'nfe': 25.0, 'fd': fd, 'fd_se': 0.1, 'accuracy': 0.5, 'recall': 0.4, **more,
  }  # fmt: skip


def test_differences_are_paired_by_seed():
  base = [record('none', 1, 5.0), record('none', 0, 2.0)]
  rows = [record('a', 0, 1.0), record('a', 1, 3.0)]
  mean, error = study_tables.difference(rows, base, 'fd')
  assert mean == -1.5
  assert error == pytest.approx(0.5)
  assert math.isnan(study_tables.difference(rows[:1], base, 'fd')[1])


def test_a_table_has_means_differences_and_the_floor_at_the_end():
  floor = record(study.FLOOR, 0, 0.5)
  del floor['run'], floor['nfe'], floor['guidance']
  rows = [floor]
  for seed in (0, 1):
    rows.append(record('none', seed, 2.0 + seed))
    rows.append(
      record(
        'IG',
        seed,
        1.0,
        guidance='ig:1.5',
        accuracy=0.6 + seed / 10,
        cfg_scale=1.1,
      )
    )
  lines = study_tables.table(rows).splitlines()
  assert lines[2] == (
    '| none | 25 | 2.500 ± 0.071 |  | 50.0% |  | 0.40 |  | 0, 1 |'
  )
  assert lines[3] == (
    '| IG: `ig:1.5` | 25 | 1.000 ± 0.071 | -1.500 ± 0.500 (3.0 se) | 65.0% | '
    '+15.0% ± 5.0% (3.0 se) | 0.40 | 1.10 | 0, 1 |'
  )
  assert lines[4].startswith(f'| {study.FLOOR} |  | 0.500')


def test_tables_replace_the_marked_text():
  text = 'a\n<!-- published -->\nold\n<!-- end -->\nb\n'
  filled = study_tables.fill(text, {'published': 'new\n'})
  assert filled == 'a\n<!-- published -->\n\nnew\n\n<!-- end -->\nb\n'
  assert study_tables.fill(filled, {'published': 'new\n'}) == filled


def test_equal_differences_have_no_ratio():
  rows = [
    record(title, seed, fd, accuracy=accuracy)
    for seed in (0, 1)
    for title, fd, accuracy in (('none', 2.0, 0.5), ('IG', 2.0, 0.6))
  ]
  line = study_tables.table(rows).splitlines()[3]
  assert '| +0.000 ± 0.000 |' in line
  assert 'se)' not in line.split('|')[4]


def test_rows_with_other_settings_are_refused():
  run = study_plans.teacher(0)
  plan = [study_plans.Row('none', run), study_plans.Row('IG', run, 'ig:2')]
  stored = study.settings_of(plan[1], 10)
  assert study.missing(plan, [stored], 10) == plan[:1]
  for change in ({'guidance': 'ig:3'}, {'num': 20}, {'changes': ['x']}):
    with pytest.raises(InputError, match=f'other {next(iter(change))}'):
      study.missing(plan, [{**stored, **change}], 10)


def test_the_tuning_network_is_in_no_table():
  with pytest.raises(SystemExit):
    study.main(['published', '--seeds=1,2'])


def test_the_page_shows_the_recorded_results():
  text = study_tables.PAGE.read_text()
  assert study_tables.tables()
  assert study_tables.fill(text, study_tables.tables()) == text
  for path in study.RESULTS.glob('*.json'):
    if path.stem in study_plans.PLANS:
      assert f'<!-- {path.stem} -->' in text
      weights = {}
      for row in json.loads(path.read_text()):
        if 'run' in row:
          assert (
            weights.setdefault(row['run'], row['weights_sha256'])
            == (row['weights_sha256'])
          )


def test_networks_are_trained_once_and_after_their_needs(monkeypatch, tmp_path):
  calls = []
  monkeypatch.setattr(study, '_main', lambda *words: calls.append(words))
  first = study_plans.Run('first', (('train', '--workdir={out}/first'),))
  second = study_plans.Run('second', (('a', '{data}'), ('b',)), (first,), 'x')
  work = study.Study(pathlib.Path('d'), tmp_path, 10)
  assert work.train(second) == tmp_path / 'second' / 'x'
  work.train(first)
  assert calls == [
    ('train', f'--workdir={tmp_path}/first'), ('a', 'd'), ('b',),
  ]  # fmt: skip


@pytest.fixture
def small(monkeypatch, tmp_path, shared_run):
  """A study of the digits in a folder with one trained network, `run`."""
  (tmp_path / 'run.done').touch()
  (tmp_path / 'run').symlink_to(shared_run / 'run')
  monkeypatch.setattr(study, 'RESULTS', tmp_path / 'results')
  monkeypatch.setattr(study, 'CONFIG', 'configs/digits.py')
  monkeypatch.setattr(study, 'TUNING_IMAGES', 40)
  return study_plans.Run('run', ())


@pytest.mark.slow
def test_a_study_measures_missing_rows_alone(
  monkeypatch, tmp_path, small, data_dir, capsys
):
  rows = [
    study_plans.Row('none', small),
    study_plans.Row('IG', small, 'ig:1.5', changes=('sample.steps=4',)),
  ]
  monkeypatch.setitem(study.PLANS, 'published', lambda seeds, best: rows)
  argv = ['published', f'--data={data_dir}', f'--out={tmp_path}', '--num=40']
  study.main(argv)
  file = tmp_path / 'results' / 'published.json'
  first = json.loads(file.read_text())
  assert [row['title'] for row in first] == [study.FLOOR, 'none', 'IG']
  assert first[1]['cfg_scale'] == pytest.approx(1)
  assert first[2]['nfe'] == 4
  assert first[1]['weights_sha256'] == first[2]['weights_sha256']
  capsys.readouterr()
  study.main(argv)
  assert json.loads(file.read_text()) == first
  assert 'seed' not in capsys.readouterr().out


@pytest.mark.slow
def test_scales_are_tuned_once(monkeypatch, tmp_path, small, data_dir):
  method = study_plans.Method('CFG', 'cfg:1.5', 'cfg:1..2:3')
  monkeypatch.setattr(study, 'METHODS', [method])
  monkeypatch.setattr(study, 'teacher', lambda seed: small)
  work = study.Study(data_dir, tmp_path, 40)
  best = work.best('CFG')
  assert best in ('cfg:1', 'cfg:1.5', 'cfg:2')
  assert work.best('CFG') == best
  stored = json.loads((tmp_path / 'results' / 'tuned_scales.json').read_text())
  assert stored == {'CFG': best}
