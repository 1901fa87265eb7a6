import io
import json
import zipfile

import command_runs
import numpy as np
import pytest
from PIL import Image
from refusals import refused

from evaluate import classifier
from evaluate.image_sets import open_image_set
from evaluate.reference import load_reference


def digits(count, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 8, 8, 1), np.uint8)


@pytest.fixture
def check_refusal(shared_run, monkeypatch):

  def train(*args, **kwargs):
    raise AssertionError('a classifier was trained')

  monkeypatch.setattr(classifier, 'train_classifier', train)

  def check(words, *argv):
    said = command_runs.refusal('evaluate', command_runs.DIGITS,
                                f'--config.data.dir={shared_run}/data',
                                *argv)  # fmt: skip
    (line,) = (x for x in said.splitlines() if x.startswith('main.py:'))
    assert words in line and len(line) < 1000

  return check


@pytest.mark.parametrize(('labels', 'words'), [
  (np.arange(20) - 1, 'label of image 0 is -1'),
  (np.arange(20) % 3 + 0.5, 'label of image 0 is 0.5'),
  (np.arange(20) % 11, 'label of image 10 is 10, but the classifier'),
  (np.full(20, 2**40), 'label of image 0 is 1099511627776'),
  (np.full(20, np.nan), 'label of image 0 is nan'),
  (np.full(20, 'cat'), 'labels are of type <U3'),
  (np.arange(20) > 3, 'labels are of type bool'),
])  # fmt: skip
def test_labels_that_are_no_classes(check_refusal, tmp_path, labels, words):
  np.savez(tmp_path / 'a.npz', digits(20), labels)
  check_refusal(words, f'--samples={tmp_path}/a.npz')


@pytest.mark.parametrize(
  'word', ['99999999999', '9' * 5000, '-1', '1.5', 'cat', '0x1', '[' * 5000]
)
def test_labels_of_a_text_that_are_no_classes(tmp_path, word):
  for k in range(2):
    Image.fromarray(digits(2)[k, ..., 0]).save(tmp_path / f'{k}.png')
  (tmp_path / 'labels.txt').write_text(f'0\n{word}\n')
  with refused('label 2 is') as error:
    open_image_set(str(tmp_path), '')
  assert len(str(error.value)) < 1000


def test_labels_are_not_asked_for_where_none_are_used(mine, tmp_path):
  """Labels may exceed the number of classes if the metric is FD."""
  np.savez(tmp_path / 'a.npz', digits(20), np.arange(20.0) * 50)
  labels = open_image_set(f'{tmp_path}/a.npz', '').labels
  assert labels.tolist() == [50 * k for k in range(20)]
  command_runs.succeed(
    'evaluate', f'--samples={tmp_path}/a.npz', '--metrics=fid',
    f'--reference={tmp_path}/a.npz', mine,
  )  # fmt: skip


@pytest.mark.parametrize(('size', 'sigma', 'words'), [
  (64, -np.eye(64), 'not a covariance'),
  (64, np.full((64, 64), np.inf), 'not finite'),
  (64, np.eye(2048), 'expected (F,) and (F, F)'),
  (2048, np.eye(2048), 'has 2048 features'),
])  # fmt: skip
def test_statistics_that_do_not_fit(
  check_refusal, tmp_path, size, sigma, words
):
  np.savez(tmp_path / 'a.npz', digits(20), np.arange(20) % 10)
  np.savez(tmp_path / 'r.npz', mu=np.zeros(size), sigma=sigma)
  check_refusal(
    words, f'--samples={tmp_path}/a.npz', f'--reference={tmp_path}/r.npz'
  )


def test_images_of_another_kind(check_refusal, tmp_path):
  good, floats = f'--samples={tmp_path}/a.npz', np.float32(digits(100) / 255)
  np.savez(tmp_path / 'a.npz', digits(100), np.arange(100) % 10)
  np.savez(tmp_path / 'large.npz', np.zeros((20, 16, 16, 1), np.uint8))
  check_refusal('16 x 16 pixels', f'--samples={tmp_path}/large.npz')
  check_refusal('16 x 16 pixels', good, f'--reference={tmp_path}/large.npz')
  floats[90] = np.nan  # Image 90 is in the last batch.
  np.savez(tmp_path / 'nan.npz', floats)
  check_refusal('not finite', f'--samples={tmp_path}/nan.npz')
  check_refusal('not finite', good, f'--reference={tmp_path}/nan.npz')
  for dtype in (np.int32, bool, np.complex64):
    np.savez(tmp_path / 'kind.npz', digits(20).astype(dtype))
    check_refusal('expected uint8', f'--samples={tmp_path}/kind.npz')


def test_too_few_images_for_fid_infinity(check_refusal, tmp_path):
  np.savez(tmp_path / 'a.npz', digits(324), np.arange(324) % 10)
  check_refusal(
    'expected at least 325', f'--samples={tmp_path}/a.npz', '--metrics=fd_inf'
  )


def hostile(path, header, name='arr_0', compressed=True, **others):
  """Writes an .npz with the given array header and 1,000 bytes of data."""
  data = io.BytesIO()
  text = header.encode()
  data.write(b'\x93NUMPY\x02\x00' + len(text).to_bytes(4, 'little') + text)
  data.write(bytes(1000))
  kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
  with zipfile.ZipFile(path, 'w', kind) as archive:
    archive.writestr(f'{name}.npy', data.getvalue())
    for other, array in others.items():
      with archive.open(f'{other}.npy', 'w') as file:
        np.lib.format.write_array(file, array)
  return str(path)


CLAIM = "{'descr': '|u1', 'fortran_order': False, 'shape': %s}"
HEADERS = [
  CLAIM % '(1000000000000, 8, 8, 1)',
  CLAIM % f'({10**400}, 8, 8, 1)',
  CLAIM % '(-5, 8, 8, 1)',
  CLAIM % ('(' * 4000 + '1' + ')' * 4000),
  CLAIM % ('[' * 5000),
  CLAIM % ('-' * 5000 + '1'),
  '\0' * 20,
]


@pytest.mark.parametrize('header', HEADERS, ids=range(len(HEADERS)))
@pytest.mark.parametrize('compressed', [False, True])
def test_headers_are_not_believed(tmp_path, header, compressed):
  place = hostile(tmp_path / 'a.npz', header, compressed=compressed)
  with refused('damaged') as error:
    open_image_set(place, '')
  assert len(str(error.value)) < 1000
  place = hostile(tmp_path / 'r.npz', header, 'sigma', mu=np.zeros(8))
  with refused('damaged') as error:
    load_reference(place)
  assert len(str(error.value)) < 1000


def test_images_of_too_many_pixels(tmp_path):
  place = tmp_path / 'a.npz'
  np.savez_compressed(place, np.zeros((1, 1, 2**24 + 1, 1), np.uint8))
  with refused('at most 16,777,216 pixels'):
    open_image_set(str(place), '')


def test_deep_text_in_files_beside_images(mine, tmp_path):
  np.savez(tmp_path / 'samples.npz', digits(20))
  (tmp_path / 'samples.json').write_text('[' * 100_000)
  np.savez(
    tmp_path / 'r.npz', mu=np.zeros(8), sigma=np.eye(8), about='[' * 20_000
  )
  with refused('damaged'):
    load_reference(tmp_path / 'r.npz')
  words = (
    'evaluate', f'--samples={tmp_path}/samples.npz', '--metrics=fid', mine,
    f'--reference={tmp_path}/samples.npz', f'--out={tmp_path}/out',
  )  # fmt: skip
  assert 'samples.json is damaged' in command_runs.succeed(*words).err
  (tmp_path / 'samples.json').write_text('{"nonfinite": "many"}')
  command_runs.succeed(*words)
  written = json.loads((tmp_path / 'out' / 'evaluation-2.json').read_text())
  assert written['samples']['nonfinite'] == 0
