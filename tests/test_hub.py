"""Folders of weights on the Hugging Face Hub, read from a local cache."""

import shutil

import numpy as np
import pytest
from command_runs import run

from core.errors import InputError
from dit.weights.files import fetch_folder
from sample import load
from sample.model_card import model_card

constants = pytest.importorskip('huggingface_hub.constants')
COMMIT = '0123456789' * 4


@pytest.fixture
def cache(weights_folder, tmp_path, monkeypatch):
  """A cache with a repository that has the folder at its root and in `net`."""
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  place = tmp_path / 'models--org--name'
  (place / 'refs').mkdir(parents=True)
  (place / 'refs' / 'main').write_text(COMMIT)
  snapshot = place / 'snapshots' / COMMIT
  shutil.copytree(weights_folder, snapshot)
  shutil.copytree(weights_folder, snapshot / 'net')
  return snapshot


@pytest.mark.parametrize('inside', ['', '/net', f'@{COMMIT}'])
def test_a_folder_of_the_hub_samples(cache, weights_folder, inside):
  expected = load(weights_folder)([3, 8])
  ours = load(f'hf://org/name{inside}')([3, 8])
  np.testing.assert_array_equal(ours, expected)


def test_the_command_writes_beside_the_user(cache, tmp_path, monkeypatch):
  before = sorted(cache.rglob('*'))
  monkeypatch.chdir(tmp_path)
  result = run('sample', '--folder=hf://org/name', '--num=4')
  assert result.status == 0, result.err
  assert (tmp_path / 'name' / 'samples' / 'none' / 'samples.npz').exists()
  assert sorted(cache.rglob('*')) == before


def test_a_guide_of_the_hub(cache, weights_folder, tmp_path):
  words = (
    'sample', f'--folder={weights_folder}', '--num=4', '--guidance=auto:2',
    f'--out={tmp_path}/out',
  )  # fmt: skip
  result = run(*words, '--guide=hf://org/name/net/')
  assert result.status == 0, result.err


@pytest.mark.parametrize(
  ('place', 'words'),
  [
    ('hf://org', 'names no folder'),
    ('hf://org/missing', 'cannot be downloaded'),
    ('hf://org/name/other', 'no folder of weights'),
  ],
)
def test_what_is_refused(cache, place, words):
  with pytest.raises(InputError, match=words):
    fetch_folder(place)


def test_other_paths_stay(tmp_path):
  assert fetch_folder(tmp_path) == str(tmp_path)


def test_the_model_card(weights_folder):
  card = (weights_folder / 'README.md').read_text()
  assert card.startswith('---\nlibrary_name: jax\n')
  for words in (
    '# digits', 'parameters', '8 x 8 x 1, pixels', "load('FOLDER')",
    'after block', '| weights | ema |', 'No results are recorded',
  ):  # fmt: skip
    assert words in card


def test_the_card_of_latents_names_a_decoder(make_experiment):
  config = make_experiment('model.channels=4').model
  card = model_card('net', config, {'source': 'hf://a/b'}, count=10)
  assert "autoencoder='NAME:FILE'" in card
  assert '--autoencoder=NAME:FILE' in card
  assert '| source | hf://a/b |' in card
  local = model_card('net', config, {'source': '/home/me/run'}, count=10)
  assert '/home/me' not in local


def test_the_card_of_a_student(make_experiment):
  config = make_experiment().model
  sample = {'solver': 'renoise', 'steps': 2}
  student = {'teacher': 'hf://a/b', 'method': 'DMD', 'guidance': 'cfg:1.2'}
  about = {'sample': sample, 'student': student}
  card = model_card('net', config, about, count=10)
  for words in (
    'A few-step student of hf://a/b, distilled by DMD', 'in 2 steps, without',
    "pipeline([0, 9], 'none')", '--guidance=none', '| teacher | hf://a/b |',
    '| guidance of the teacher | cfg:1.2 |',
  ):  # fmt: skip
    assert words in card
  # Folders of earlier versions do not record the teacher.
  card = model_card('net', config, {'sample': sample}, count=10)
  assert 'A few-step student: a network' in card
  euler = {'solver': 'euler', 'steps': 2}
  card = model_card('net', config, {'sample': euler, 'merge': {}}, count=10)
  assert 'A few-step student: a network' in card
  # A network that is sampled in a few steps is not necessarily a student.
  card = model_card('net', config, {'sample': euler}, count=10)
  assert 'student' not in card and "'cfg:1.5'" in card


def test_the_card_has_the_results_of_the_same_weights(
  shared_run, features, tmp_path
):
  place = tmp_path / 'run'
  shutil.copytree(shared_run / 'run', place)
  result = run(
    'compare', f'--workdir={place}', '--guidance=none', '--num=20',
    '--bootstrap=2', features,
  )  # fmt: skip
  assert result.status == 0, result.err
  for name, flag in (
    ('a', '--weights=ema'), ('b', '--weights=raw'), ('c', '--quantize=int8'),
  ):  # fmt: skip
    result = run('convert', f'--from={place}', f'--to={tmp_path}/{name}', flag)
    assert result.status == 0, result.err
  table = (place / 'table.md').read_text()
  assert table in (tmp_path / 'a' / 'README.md').read_text()
  for name in ('b', 'c'):
    assert table not in (tmp_path / name / 'README.md').read_text()
