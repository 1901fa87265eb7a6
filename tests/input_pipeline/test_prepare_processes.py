"""Tests `prepare` in two processes, and in a folder that is locked."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from command_runs import ROOT, free_port
from networks import Doubled
from PIL import Image

from commands import prepare
from core.errors import InputError, PrepareError
from core.folder_lock import folder_lock
from input_pipeline.prepare import PrepareConfig
from input_pipeline.records import Metadata
from train.config_file import load_config, override
from train.experiment import build

COUNT = 44  # Process 0 writes 3 shards, process 1 writes 2.

# Two processes run this program, which prints one result or error for each
# case. All cases share the processes, because starting them is slow.
SCRIPT = """
import json, os, sys
os.environ['JAX_PLATFORMS'] = 'cpu'
import jax
sys.path.insert(0, sys.argv[4])
import networks
from commands import prepare as preparing
from input_pipeline.prepare import PrepareConfig
from train.config_file import load_config, override
from train.experiment import build

process = int(sys.argv[2])
jax.distributed.initialize(f'localhost:{sys.argv[1]}', 2, process)
preparing.read_autoencoder = lambda name, *_: name and networks.Doubled()
preparing.about_autoencoder = lambda name, _: {'name': name}
said = []
for case in json.loads(sys.argv[3]):
  config = override(load_config('configs/base.py'), case['words'][process])
  try:
    args = case['images'][process], 'train', case['autoencoder']
    settings = PrepareConfig(**case['settings'])
    data = build(config.to_dict()).data
    said.append(preparing.prepare(data, settings, *args))
  except Exception as error:
    said.append(f'{type(error).__name__}: {error}')
print('\\n' + json.dumps(said))
"""


def write_images(folder, broken=()):
  for i in range(COUNT):
    path = folder / 'ab'[i % 2] / f'{i:02}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(i)
    values = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    if i in broken:
      path.write_bytes(path.read_bytes()[:90])
  return str(folder)


def words(folder, name, autoencoder=None):
  kind = (autoencoder or 'pixels').partition(':')[0]
  return [f'data.dir={folder}', f'data.name={name}', 'data.flip=true',
          f'data.autoencoder={kind}']  # fmt: skip


def settings(max_broken=3):
  return {'image_size': 8, 'dtype': 'float16', 'batch_size': 8,
          'shard_records': 10, 'threads': 16,
          'max_broken': max_broken}  # fmt: skip


def prepare_alone(folder, images, name, autoencoder=None):
  config = words(folder, name, autoencoder)
  data = build(override(load_config('configs/base.py'), config).to_dict()).data
  given = PrepareConfig(**settings())
  return prepare.prepare(data, given, str(images), 'train', autoencoder)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Image folders, some with broken or missing files, and a damaged zip."""
  folder = tmp_path_factory.mktemp('processes')
  # Sorted by path, the images are 0, 2, ..., 42, 1, 3, ..., 43. Image 2 is in
  # shard 0, and image 24 in shard 1.
  write_images(folder / 'good', broken=(2, 24))
  write_images(folder / 'bad', broken=(2, 24, 26))
  write_images(folder / 'whole')
  write_images(folder / 'less')
  (folder / 'less' / 'a' / '24.png').unlink()
  with zipfile.ZipFile(folder / 'damaged.zip', 'w') as archive:
    for path in sorted((folder / 'whole').rglob('*.png')):
      archive.write(path, path.relative_to(folder / 'whole'))
  data = bytearray((folder / 'damaged.zip').read_bytes())
  data[data.index((folder / 'whole' / 'a' / '24.png').read_bytes()) + 60] ^= 255
  (folder / 'damaged.zip').write_bytes(data)
  return folder


def case(folder, images, name, autoencoder=None, **changes):
  return {
    'images': 2 * [str(folder / images)],
    'autoencoder': autoencoder,
    'words': 2 * [words(folder / 'two', name, autoencoder)],
    'settings': settings(**changes),
  }


@pytest.fixture(scope='module')
def said(folder):
  places = [words(folder / place, 'elsewhere') for place in ('two', 'three')]
  cases = {
    'pixels': case(folder, 'good', 'pixels'),
    'moments': case(folder, 'good', 'moments', 'taef2:file'),
    'bad': case(folder, 'bad', 'bad', max_broken=2),
    'again': case(folder, 'bad', 'bad', max_broken=3),
    'zip': case(folder, 'damaged.zip', 'zip'),
    **{name: case(folder, 'whole', name)
       for name in ('absent', 'fewer', 'elsewhere', 'held')},
  }  # fmt: skip
  cases['absent']['images'][1] = str(folder / 'absent')
  cases['fewer']['images'][1] = str(folder / 'less')
  cases['elsewhere']['words'] = places
  port = free_port()
  argv = [json.dumps(list(cases.values())), str(ROOT / 'tests')]
  jobs = [
    subprocess.Popen(
      [sys.executable, '-c', SCRIPT, str(port), str(process), *argv], cwd=ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    for process in (0, 1)
  ]  # fmt: skip
  held = folder / 'two' / 'held' / 'train'
  try:
    with folder_lock(held, 'records', 'prepare', instead=''):
      ends = [job.communicate(timeout=100) for job in jobs]
  finally:
    for job in jobs:
      job.kill()
  lines = []
  for job, (out, err) in zip(jobs, ends, strict=True):
    assert job.returncode == 0, err
    lines.append(json.loads(out.splitlines()[-1]))  # Gloo prints the others.
  return dict(zip(cases, zip(*lines, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, autoencoder', [('pixels', None), ('moments', 'taef2:file')]
)
def test_records_are_those_of_one(folder, said, monkeypatch, name, autoencoder):
  monkeypatch.setattr(
    prepare, 'read_autoencoder', lambda n, *_: n and Doubled()
  )
  monkeypatch.setattr(prepare, 'about_autoencoder', lambda n, _: {'name': n})
  report = prepare_alone(folder / 'one', folder / 'good', name, autoencoder)
  assert '42 records in 5 files, 2 broken' in report
  one, two = (folder / place / name / 'train' for place in ('one', 'two'))
  assert set(said[name]) == {report.replace(str(one), str(two))}
  files = sorted(path.name for path in one.iterdir())
  assert files == sorted(path.name for path in two.iterdir())
  assert len(files) == 2 * 5 + 2
  for file in files:
    assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_broken_images_count_over_all(folder, said):
  """Process 0 finds one broken image, process 1 finds two. The limit is 2."""
  for line in said['bad']:
    assert line.startswith('PrepareError:')
    assert '3 images are broken, more than --max_broken=2' in line
  assert '41 records in 5 files, 3 broken' in said['again'][0]
  assert len(Metadata.load(folder / 'two' / 'bad' / 'train').broken) == 3


@pytest.mark.parametrize('name, kinds, message', [
  ('zip', ('Prepare', 'Prepare'), 'image 12 of'),
  ('absent', ('Prepare', 'Input'), 'neither a folder'),
  ('fewer', ('Prepare', 'Prepare'), 'images in'),
  ('elsewhere', ('Prepare', 'Prepare'), 'one folder that they share'),
  ('held', ('Input', 'Prepare'), 'is being written by `prepare`'),
])  # fmt: skip
def test_an_error_on_one_ends_both(said, name, kinds, message):
  for line, kind in zip(said[name], kinds, strict=True):
    assert line.startswith(f'{kind}Error:'), line
    assert message in line, line


def test_a_second_command_is_refused(tmp_path):
  write_images(tmp_path / 'images')
  prepare_alone(tmp_path, tmp_path / 'images', 'set')
  folder = tmp_path / 'set' / 'train'
  with folder_lock(folder, 'records', 'prepare', instead=''):
    with pytest.raises(InputError, match='being written by `prepare`'):
      prepare_alone(tmp_path, tmp_path / 'images', 'set')
    prepare_alone(tmp_path, tmp_path / 'images', 'other')
  prepare_alone(tmp_path, tmp_path / 'images', 'set')


def test_a_failure_gives_the_lock_back(tmp_path):
  write_images(tmp_path / 'images', broken=range(8))
  for _ in range(2):
    with pytest.raises(PrepareError, match='images are broken'):
      prepare_alone(tmp_path, tmp_path / 'images', 'set')
