import json
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from command_runs import COMPARE, ROOT, contents, run
from PIL import Image

from commands import train as train_command
from core.errors import NonFiniteError
from core.nested import flatten
from evaluate import classifier, compare
from evaluate.comparison_picture import read_strips
from train import loop
from train.metrics_log import read_metrics


@pytest.fixture
def trained(shared_run, tmp_path):
  shutil.copytree(shared_run / 'run', tmp_path / 'run')
  argv, printed = json.loads((shared_run / 'command.json').read_text())
  argv[2] = f'--workdir={tmp_path}/run'
  return types.SimpleNamespace(
    workdir=tmp_path / 'run', argv=argv, printed=printed
  )


def picture(path):
  """Returns the pixels of a PNG, and checks that it is not blank."""
  pixels = np.asarray(Image.open(path))
  assert pixels.std() > 5
  return pixels


def test_train_leaves_a_run(trained):
  folder = trained.workdir
  config = json.loads((folder / 'config.json').read_text())
  assert flatten(config)['model.width'] == 16
  assert json.loads((folder / 'run.json').read_text())['devices'] == 8
  steps = sorted(int(p.name) for p in (folder / 'checkpoints').iterdir())
  assert steps == [20, 30]
  assert list((folder / 'tensorboard').glob('events.*'))

  rows = read_metrics(folder)
  assert [row['step'] for row in rows] == [5, 10, 15, 20, 25, 30]
  assert [row['images'] for row in rows] == [80, 160, 240, 320, 400, 480]
  names = {'loss', 'loss/velocity', 'loss/intermediate_1', 'grad_norm', 'lr'}
  assert all(names <= row.keys() for row in rows)
  assert rows[-1]['loss'] < rows[0]['loss']

  picture(folder / 'loss.png')
  previews = sorted((folder / 'previews').iterdir())
  assert [path.name for path in previews] == ['00000015.png', '00000030.png']
  for path in previews:  # 2 rows of 10 digits, each 40 + 4 pixels
    assert picture(path).shape == (2 * 44, 10 * 44)
  assert re.search(r'step 20: loss.*, 0:0\d:\d\d left', trained.printed)
  assert re.search(r'step 30: loss.*, 0:00:00 left', trained.printed)
  assert ['compile_seconds' in row for row in rows] == [True] + 5 * [False]
  assert 'Compiling the step.' in trained.printed
  assert 'Trained 30 steps' in trained.printed


def test_training_again_changes_nothing(trained, monkeypatch):
  before = contents(trained.workdir)
  monkeypatch.setattr(loop, 'MetricsLog', None)  # A training step would fail.
  result = run(*trained.argv)
  assert result.status == 0
  assert 'Already trained: 30 steps.' in result.err
  assert contents(trained.workdir) == before


def test_sample_draws_what_was_asked(trained):
  folder = trained.workdir
  result = run('sample', f'--workdir={folder}', '--num=24', '--labels=3,8',
               '--guidance=ig:1.5,cfg:1.2@0-0.7', '--seed=5')  # fmt: skip
  assert result.status == 0, result.err
  out = folder / 'samples' / 'ig-1.5_cfg-1.2@0-0.7'
  assert str(out) in result.err
  with np.load(out / 'samples.npz') as arrays:
    images, labels = arrays['arr_0'], arrays['arr_1']
  assert images.shape == (24, 8, 8, 1)
  assert images.dtype == np.uint8
  assert (images.std((1, 2, 3)) > 0).all()
  assert labels.tolist() == [3, 8] * 12
  # Ten columns show 24 images of 40 pixels, with two pixels around each image.
  assert picture(out / 'samples.png').shape == (3 * 44, 10 * 44)

  protocol = json.loads((out / 'samples.json').read_text())
  expected = {
    'guidance': 'ig:1.5,cfg:1.2@0-0.7',
    'labels': '3,8',
    'num': 24,
    'seed': 5,
    'step': 30,
    'images_seen': 480,
    'weights': 'ema',
    'path': 'linear',
    # Each of three Euler steps takes one pass. CFG adds a pass in two steps.
    'nfe_per_image': 5,
  }
  assert expected.items() <= protocol.items()
  assert protocol['sampling']['steps'] == 3
  assert protocol['model']['width'] == 16
  assert {'packages', 'commit', 'device', 'command'} <= protocol.keys()


def test_images_depend_on_seed_and_number_only(trained, tmp_path):
  def draw(name, *flags):
    out = tmp_path / name
    result = run(
      'sample', f'--workdir={trained.workdir}', f'--out={out}', *flags
    )
    assert result.status == 0, result.err
    with np.load(out / 'samples.npz') as arrays:
      return arrays['arr_0']

  many = draw('many', '--num=20')
  np.testing.assert_array_equal(draw('few', '--num=5'), many[:5])
  assert (draw('seed', '--num=20', '--seed=1') != many).any()
  assert (draw('raw', '--num=20', '--weights=raw') != many).any()
  assert not (trained.workdir / 'samples').exists()


def test_compare_makes_a_table_once(trained, monkeypatch):
  folder = trained.workdir
  monkeypatch.setattr(classifier, 'recipe', lambda shape: (2, 16))
  result = run('compare', f'--workdir={folder}', *COMPARE)
  assert result.status == 0, result.err

  table = (folder / 'table.md').read_text()
  assert table in result.out
  rows = [line.split('|')[1].strip() for line in table.splitlines()[2:]]
  assert rows == ['none', 'IG', 'IG + CFG', 'real, held out']
  figures = json.loads((folder / 'compare.json').read_text())
  assert [row['nfe'] for row in figures['rows']] == [3, 3, 6, None]
  for row in figures['rows']:
    assert row['features'] >= 0
    assert row['pixels'] >= 0
    assert 0 <= row['accuracy'] <= 1
  assert figures['protocol']['step'] == 30
  assert picture(folder / 'samples.png').shape[1] > 10 * 84

  before = contents(folder)
  # The second command must not compute metrics again.
  monkeypatch.setattr(compare, 'open_evaluators', None)
  again = run('compare', f'--workdir={folder}', *COMPARE)
  assert again.status == 0
  assert 'Already compared' in again.err
  assert again.out == result.out
  assert contents(folder) == before


def test_compare_without_a_test_split(trained, features):
  folder = trained.workdir
  config = json.loads((folder / 'config.json').read_text())
  config['data']['test_split'] = ''
  (folder / 'config.json').write_text(json.dumps(config))
  result = run(
    'compare', f'--workdir={folder}', features, '--config.sample.steps=1',
    *COMPARE[-2:], '--num=20', '--guidance=ig:1.5', '--match_cfg',
  )  # fmt: skip
  assert result.status == 0, result.err
  rows = (folder / 'table.md').read_text().splitlines()[2:]
  names = [row.split('|')[1].strip() for row in rows]
  assert names == ['IG', 'CFG at the scale of ig:1.5']
  ig, cfg = json.loads((folder / 'compare.json').read_text())['rows']
  assert cfg['method'] == f'cfg:{ig["cfg_scale"]:.4g}'
  assert cfg['cfg_scale'] == pytest.approx(ig['cfg_scale'], abs=1e-3)
  strips, classes = read_strips(folder / 'compare.npz')
  titles = [strip.title for strip in strips]
  assert titles == [
    'Real images',
    'Internal Guidance',
    'Classifier-free guidance',
  ]
  assert strips[0].text == 'Training images.' and strips[0].is_real
  assert len(classes) == len(strips[0].images) == 10


def test_home_means_the_same_to_all_commands(trained, monkeypatch):
  monkeypatch.setenv('HOME', str(trained.workdir.parent))
  monkeypatch.chdir(trained.workdir)
  result = run('sample', '--workdir=~/run', '--num=4', '--out=~/drawn')
  assert result.status == 0, result.err
  assert (trained.workdir.parent / 'drawn' / 'samples.npz').exists()


def test_bad_input_in_a_process_of_its_own(tmp_path):
  result = subprocess.run(
    [sys.executable, 'main.py', 'train', f'--workdir={tmp_path}/new',
     '--config.optimizer.lrr=1'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=240,
  )  # fmt: skip
  assert result.returncode == 2
  assert result.stderr.startswith("main.py: unknown config key 'optimizer.lrr'")
  assert result.stderr.count('\n') == 1
  assert result.stdout == ''
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  'words',
  [
    'sample --num=1',
    'sample --dry_run',
    'compare',
    'sweep --guidance=ig:1..2:2',
    'evaluate --num=2',
    'report',
  ],
)
def test_a_missing_workdir_is_said_in_one_line(words, tmp_path):
  result = run(*words.split(), f'--workdir={tmp_path}/none')
  assert (result.status, result.out) == (2, '')
  (line,) = result.err.splitlines()
  assert f'{tmp_path}/none is not the workdir of a run' in line
  assert not list(tmp_path.iterdir())


def test_too_many_bad_steps_exit_with_one(monkeypatch):
  def explode(args):
    raise NonFiniteError('3 steps in a row.')

  monkeypatch.setattr(train_command, 'run', explode)
  result = run('train', '--workdir=x')
  assert (result.status, result.err) == (1, 'main.py: 3 steps in a row.\n')


def test_ctrl_c_outside_training_exits_with_130(monkeypatch):
  def interrupt(args):
    raise KeyboardInterrupt

  monkeypatch.setattr(train_command, 'run', interrupt)
  result = run('train', '--workdir=x')
  assert (result.status, result.err) == (130, 'main.py: interrupted.\n')


@pytest.mark.parametrize(
  ('words', 'near'),
  [
    ('trian', 'train'),
    ('train --wokdir=x', '--workdir'),
    ('sample --wokdir=x', '--workdir'),
    ('convert --form=x --to=y', '--from'),
    ('train --config.optimizer.lrr=1', 'optimizer.lr'),
    ('train --config=configs/digit.py', 'configs/digits.py'),
    ('train --config=configs/sit.py:XLL/2', 'XL'),
    ('train --config=configs/sit.py:XL/2,igg', 'ig'),
    ('train --config=configs/distill/digits.py:hybrd,4', 'hybrid'),
    ('train --dry_run --config.model.name=SiT-Tinny/2', 'SiT-Tiny/2'),
    ('sample --folder=x --preset=sit_xl_igcfg', 'sit_xl_ig_cfg'),
    ('sweep --workdir=x --guidance=ig:1..2:3 --metric=fdd', 'fd'),
    ('sample --workdir=x --weights=emma', 'ema'),
    ('--hepl', '--help'),
  ],
)
def test_typos_get_the_nearest_word(words, near):
  result = run(*words.split())
  assert result.status == 2 and result.out == ''
  assert f'Did you mean {near!r}?' in result.err
  assert result.err.count('\n') == 1 and 'Traceback' not in result.err
