"""Folders of weights on the Hugging Face Hub, read from a local cache."""

import shutil

import numpy as np
import pytest
from command_runs import run

from core.errors import InputError
from dit.weights.files import fetch_folder
from sample import load

constants = pytest.importorskip('huggingface_hub.constants')
COMMIT = '0123456789' * 4


@pytest.fixture(scope='module')
def folder(shared_run, tmp_path_factory):
  target = tmp_path_factory.mktemp('weights') / 'digits'
  result = run('convert', f'--from={shared_run}/run', f'--to={target}')
  assert result.status == 0, result.err
  return target


@pytest.fixture
def cache(folder, tmp_path, monkeypatch):
  """A cache with a repository that has the folder at its root and in `net`."""
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  place = tmp_path / 'models--org--name'
  (place / 'refs').mkdir(parents=True)
  (place / 'refs' / 'main').write_text(COMMIT)
  snapshot = place / 'snapshots' / COMMIT
  shutil.copytree(folder, snapshot)
  shutil.copytree(folder, snapshot / 'net')
  return snapshot


@pytest.mark.parametrize('inside', ['', '/net', f'@{COMMIT}'])
def test_a_folder_of_the_hub_samples(cache, folder, inside):
  expected = load(folder)([3, 8])
  ours = load(f'hf://org/name{inside}')([3, 8])
  np.testing.assert_array_equal(ours, expected)


def test_the_command_reads_the_hub(cache, tmp_path):
  result = run(
    'sample', '--folder=hf://org/name', '--num=4', f'--out={tmp_path}/out'
  )
  assert result.status == 0, result.err
  assert (tmp_path / 'out' / 'samples.npz').exists()


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


def test_the_model_card(folder):
  card = (folder / 'README.md').read_text()
  assert card.startswith('---\nlibrary_name: jax\n')
  for words in (
    '# digits', 'parameters', '8 x 8 x 1, pixels', "load('FOLDER')",
    'after block', 'images of digits', 'No results are recorded',
  ):  # fmt: skip
    assert words in card


def test_the_card_has_the_results_of_the_same_weights(shared_run, tmp_path):
  place = tmp_path / 'run'
  shutil.copytree(shared_run / 'run', place)
  result = run(
    'compare', f'--workdir={place}', '--guidance=none', '--num=20',
    '--bootstrap=2',
  )  # fmt: skip
  assert result.status == 0, result.err
  for name, weights in (('a', 'ema'), ('b', 'raw')):
    result = run(
      'convert', f'--from={place}', f'--to={tmp_path}/{name}',
      f'--weights={weights}',
    )  # fmt: skip
    assert result.status == 0, result.err
  table = (place / 'table.md').read_text()
  assert table in (tmp_path / 'a' / 'README.md').read_text()
  assert table not in (tmp_path / 'b' / 'README.md').read_text()
