import io
import json
import zipfile

import jax
import numpy as np
import pytest
from command_runs import change_json
from networks import Doubled
from PIL import Image

from core.errors import InputError
from dit import latents
from input_pipeline import shards
from input_pipeline.image_files import open_images
from input_pipeline.prepare import PrepareConfig, layout_of, prepare
from input_pipeline.records import LatentSource, Layout, Metadata

CONFIG = {'image_size': 8, 'dtype': 'float16', 'batch_size': 8,
          'shard_records': 10, 'threads': 2, 'max_broken': 3}  # fmt: skip
COUNT = 24
ABOUT = {'autoencoder': {'name': 'pixels', 'encoder_sha256': None}}


def image_of(i):
  rng = np.random.default_rng(i)
  return rng.integers(256, size=(8, 8, 3), dtype=np.uint8)


def label_of(i):
  return i % 3


def png(i):
  data = io.BytesIO()
  Image.fromarray(image_of(i)).save(data, 'PNG')
  return data.getvalue()


NAMES = [f'{"cab"[label_of(i)]}/{i:02}.png' for i in range(COUNT)]
# Records are sorted by path. Paths start with the class a, b or c.
ORDER = sorted(range(COUNT), key=lambda i: NAMES[i])


@pytest.fixture
def folder(tmp_path):
  for i, name in enumerate(NAMES):
    path = tmp_path / 'images' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(i))
  return tmp_path / 'images'


def truncate(path, count):
  path.write_bytes(path.read_bytes()[:-count])


def flip(path, find):
  """Flips the lowest bit of the byte at position `find(data)`."""
  data = bytearray(path.read_bytes())
  data[find(data)] ^= 1
  path.write_bytes(data)


def make(place, target, encoder=None, flip=False, **changes):
  config = PrepareConfig(**CONFIG | changes)
  layout = layout_of(config, encoder, flip)
  files = open_images(str(place), '')
  return prepare(files, encoder, config, layout, target, about=ABOUT)


def test_pixels_are_kept(folder, tmp_path):
  metadata = make(folder, tmp_path / 'out')
  source = LatentSource(tmp_path / 'out')
  assert len(source) == metadata.records == COUNT
  for record, i in zip(source, ORDER, strict=True):
    np.testing.assert_array_equal(record['pixels'], image_of(i)[None])
    assert metadata.classes[record['label']] == NAMES[i][0]
  assert source.metadata == metadata
  assert metadata.classes == ('a', 'b', 'c')
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {
    'metadata.json', 'protocol.json',
    *(f'0000{i}-of-00003.array_record' for i in range(3)),
    *(f'0000{i}-of-00003.json' for i in range(3)),
  }  # fmt: skip


@pytest.fixture
def archive(tmp_path):
  with zipfile.ZipFile(tmp_path / 'images.zip', 'w') as archive:
    for i, name in enumerate(NAMES):
      archive.writestr(name, png(i))
    archive.writestr('README.md', 'none of them')
  return tmp_path / 'images.zip'


def test_zip_is_the_same(folder, archive, tmp_path):
  make(folder, tmp_path / 'a')
  make(archive, tmp_path / 'b')
  one, two = LatentSource(tmp_path / 'a'), LatentSource(tmp_path / 'b')
  for first, second in zip(one, two, strict=True):
    np.testing.assert_array_equal(first['pixels'], second['pixels'])
    assert first['label'] == second['label']


@pytest.mark.parametrize('dtype, rtol', [('float16', 1e-3), ('float32', 1e-6)])
def test_moments_and_their_mirror(folder, tmp_path, dtype, rtol):
  metadata = make(folder, tmp_path / 'out', Doubled(), True, dtype=dtype)
  assert metadata.layout.latent_shape == (8, 8, 3)
  assert metadata.normalization == Doubled.normalization
  for record, i in zip(LatentSource(tmp_path / 'out'), ORDER, strict=True):
    x = image_of(i) / 127.5 - 1
    for moments, side in zip(record['moments'], (x, x[:, ::-1]), strict=True):
      assert moments.dtype == dtype
      np.testing.assert_allclose(moments[..., :3], 2 * side, rtol, atol=1e-3)
      np.testing.assert_array_equal(moments[..., 3:], 0.5)


def test_statistics_are_those_of_the_latents(folder, tmp_path):
  metadata = make(folder, tmp_path / 'out', Doubled(), dtype='float32')
  x = np.stack([image_of(i) / 127.5 - 1 for i in range(COUNT)])
  mean, std = (2 * x).mean((0, 1, 2)), np.sqrt((2 * x).var((0, 1, 2)) + 0.25)
  np.testing.assert_allclose(metadata.statistics.mean, mean, atol=1e-6)
  np.testing.assert_allclose(metadata.statistics.std, std, rtol=1e-6)
  stored = json.loads((tmp_path / 'out' / 'metadata.json').read_text())
  assert stored['counts'] == [8, 8, 8] and stored['records'] == COUNT
  np.testing.assert_allclose(stored['statistics']['mean'], mean, atol=1e-6)


def test_broken_images_are_named_and_left_out(folder, tmp_path):
  (folder / NAMES[3]).write_bytes(png(3)[:90])
  (folder / NAMES[7]).write_bytes(b'')
  Image.fromarray(image_of(9)).save(folder / NAMES[9], 'JPEG')
  truncate(folder / NAMES[9], 20)
  metadata = make(folder, tmp_path / 'out')
  assert set(metadata.broken) == {NAMES[3], NAMES[7], NAMES[9]}
  assert metadata.records == COUNT - 3
  kept = [i for i in ORDER if i not in (3, 7, 9)]
  for record, i in zip(LatentSource(tmp_path / 'out'), kept, strict=True):
    np.testing.assert_array_equal(record['pixels'][0], image_of(i))


def test_too_many_broken_images_stop_it(folder, tmp_path):
  for name in NAMES[:4]:
    (folder / name).write_bytes(b'nothing')
  with pytest.raises(shards.PrepareError, match=r'4 images are broken.*c/00'):
    make(folder, tmp_path / 'out')
  assert not (tmp_path / 'out' / 'metadata.json').exists()
  with pytest.raises(InputError, match='not complete'):
    LatentSource(tmp_path / 'out')
  # With a higher limit, `prepare` resumes.
  assert make(folder, tmp_path / 'out', max_broken=4).records == COUNT - 4


class Stopped(Exception):
  """Raised by a test to simulate a kill."""


def test_it_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
  whole = make(folder, tmp_path / 'whole')
  finish, calls = shards.ShardWriter._finish, []

  def stop(self):
    calls.append(self)
    if len(calls) == 2:
      raise Stopped
    finish(self)

  monkeypatch.setattr(shards.ShardWriter, '_finish', stop)
  with pytest.raises(Stopped):
    make(folder, tmp_path / 'out')
  shard = tmp_path / 'out' / '00000-of-00003.array_record'
  first = shard.stat().st_mtime_ns
  assert len(list((tmp_path / 'out').glob('*.array_record'))) == 1
  (tmp_path / 'out' / '.00001-of-00003.array_record.99').write_bytes(b'half')
  assert make(folder, tmp_path / 'out').shards == whole.shards
  assert shard.stat().st_mtime_ns == first  # The shard was not rewritten.
  assert not list((tmp_path / 'out').glob('.0*'))


@pytest.mark.parametrize(
  'change', [{'image_size': 4}, {'shard_records': 12}, {'encoder': Doubled()}]
)
def test_another_protocol_is_refused(folder, tmp_path, change):
  make(folder, tmp_path / 'out')
  with pytest.raises(InputError, match='another protocol'):
    make(folder, tmp_path / 'out', **change)


def test_other_files_are_not_touched(folder, tmp_path):
  with pytest.raises(InputError, match='did not write'):
    make(folder, folder)


@pytest.mark.parametrize('names, message', [
  ([], 'holds no image'),
  (['a/readme.txt'], 'holds no image'),
  (['1.png'], 'holds 1.png'),
])  # fmt: skip
def test_folders_without_classes(tmp_path, names, message):
  (tmp_path / 'a').mkdir()
  for name in names:
    (tmp_path / name).write_bytes(b'')
  with pytest.raises(InputError, match=message):
    open_images(str(tmp_path), '')


def test_no_images_at_all(tmp_path):
  with pytest.raises(InputError, match='neither a folder'):
    open_images(str(tmp_path / 'absent'), '')
  (tmp_path / 'a.zip').write_bytes(b'PK no zip')
  with pytest.raises(InputError, match='neither a folder'):
    open_images(str(tmp_path / 'a.zip'), '')


def test_damaged_zip_is_one_line(archive, tmp_path):
  data = bytearray(archive.read_bytes())
  data[data.index(png(5)) + 60] ^= 255  # Image 5 has a wrong checksum.
  archive.write_bytes(data)
  with pytest.raises(shards.PrepareError, match='cannot be read'):
    make(archive, tmp_path / 'out')


@pytest.mark.parametrize('moment', ['write', 'close'])
def test_full_disk_is_one_line(folder, tmp_path, monkeypatch, moment):
  def fail(self, *args):
    raise RuntimeError('No space left on device')

  full = type('Full', (shards.ArrayRecordWriter,), {moment: fail})
  monkeypatch.setattr(shards, 'ArrayRecordWriter', full)
  with pytest.raises(shards.PrepareError, match=r'No space left.*make room'):
    make(folder, tmp_path / 'out')
  assert not list((tmp_path / 'out').glob('*array_record*'))
  assert not list((tmp_path / 'out').glob('.0*'))
  monkeypatch.undo()
  assert make(folder, tmp_path / 'out').records == COUNT


def test_latents_that_are_not_finite_stop_it(folder, tmp_path):
  class Huge(Doubled):
    def encode(self, x):
      return latents.Posterior(1e6 * x, 0 * x)

  jax.tree_util.register_static(Huge)
  with pytest.raises(shards.PrepareError, match='not finite'):
    make(folder, tmp_path / 'out', Huge())
  assert make(folder, tmp_path / 'b', Huge(), dtype='float32').records == COUNT


@pytest.fixture
def prepared(folder, tmp_path):
  make(folder, tmp_path / 'out')
  return tmp_path / 'out'


def test_whole_shards_are_whole(prepared):
  assert shards.check_shards(prepared) == []


def test_missing_shard(prepared, folder):
  (prepared / '00001-of-00003.array_record').unlink()
  with pytest.raises(InputError, match=r'00001-of-00003.* is missing'):
    LatentSource(prepared)
  assert 'is missing' in shards.check_shards(prepared)[0]
  make(folder, prepared)
  assert len(LatentSource(prepared)) == COUNT


def test_short_shard(prepared):
  truncate(prepared / '00001-of-00003.array_record', 100)
  with pytest.raises(InputError, match='bytes, expected'):
    LatentSource(prepared)


@pytest.mark.parametrize('at, message', [
  (image_of(ORDER[12]).tobytes(), 'record 12 of .* is damaged'),
  (None, 'a shard in .* is damaged'),  # damage in the list of records
])  # fmt: skip
def test_flipped_byte_is_noticed_in_training(prepared, at, message):
  flip(prepared / '00001-of-00003.array_record',
       lambda data: data.index(at) if at else 65_600)  # fmt: skip
  with pytest.raises(InputError, match=message):
    LatentSource(prepared)[12]


def test_flipped_byte(prepared):
  flip(prepared / '00002-of-00003.array_record', lambda data: len(data) // 2)
  (wrong,) = shards.check_shards(prepared)
  assert '00002-of-00003' in wrong and 'checksum' in wrong


@pytest.mark.parametrize('damage', [
  lambda text: text[:-40],
  lambda text: '[]',
  lambda text: text.replace('"layout"', '"lay"'),
  lambda text: text.replace('"format": 1', '"format": 9'),
  lambda text: text.replace('"uint8"', '"uint9"'),
])  # fmt: skip
def test_damaged_metadata(prepared, damage):
  path = prepared / 'metadata.json'
  path.write_text(damage(path.read_text()))
  with pytest.raises(InputError, match='damaged or of another version'):
    Metadata.load(prepared)


def test_record_of_another_shape(prepared):
  change_json(
    prepared / 'metadata.json', lambda c: c['layout'].update(shape=[8, 9, 3])
  )
  source = LatentSource(prepared)
  with pytest.raises(InputError, match=r'record 4 .*damaged.*196 bytes'):
    source[4]


def test_pack_and_unpack():
  layout = Layout('moments', (2, 3, 4), 'float16', True)
  arrays = np.arange(48, dtype=np.float16).reshape(2, 2, 3, 4)
  record = layout.pack(7, arrays)
  assert len(record) == layout.nbytes == 4 + 96
  back = layout.unpack(record)
  np.testing.assert_array_equal(back['moments'], arrays)
  assert back['label'] == 7 and back['label'].dtype == np.int32
  with pytest.raises(ValueError, match='expected float16'):
    layout.pack(7, arrays.astype(np.float32))
