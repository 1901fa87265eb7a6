"""Image folders grow batch by batch, survive kills, and become complete."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError, WriteError
from core.folder_lock import folder_lock
from sample import image_folder
from sample.image_folder import ImageFolder

COUNT = 23
LABELS = (np.arange(COUNT) % 10).astype(np.int32)
PROTOCOL = {'guidance': 'ig:1.5', 'sampling': {'steps': 50}, 'seed': 0}
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (COUNT, 6, 6, 1), np.uint8)
COLOR = RNG.integers(0, 256, (COUNT, 6, 6, 3), np.uint8)


def opened(folder, form='npz', labels=LABELS, **kwargs):
  protocol = kwargs.pop('protocol', PROTOCOL)
  return ImageFolder(folder, protocol, labels, form=form, **kwargs)


def locked(folder):
  return folder_lock(
    folder, 'samples', 'sample', instead='choose', writes=image_folder.WRITES
  )


def fill(store, images, size=4):
  missing = store.missing()
  for begin in range(0, len(missing), size):
    index = missing[begin : begin + size]
    store.add(index, images[index])
  store.finish({'nfe_per_image': 2.0})
  store.close()


def result(folder, form):
  if form == 'npz':
    with np.load(folder / 'samples.npz') as stored:
      assert stored.files == ['arr_0', 'arr_1']
      return stored['arr_0'], stored['arr_1']
  paths = sorted((folder / 'images').iterdir())
  assert [path.name for path in paths] == [f'{i:06}.png' for i in range(COUNT)]
  images = np.stack([np.asarray(Image.open(path)) for path in paths])
  labels = np.loadtxt(folder / 'labels.txt', dtype=np.int32)
  return images.reshape(COUNT, 6, 6, -1), labels


@pytest.mark.parametrize('form', image_folder.FORMATS)
@pytest.mark.parametrize('images', [GRAY, COLOR], ids=['gray', 'color'])
def test_all_at_once(tmp_path, form, images):
  store = opened(tmp_path, form)
  np.testing.assert_array_equal(store.missing(), np.arange(COUNT))
  assert not store.complete
  fill(store, images)
  assert store.complete and not len(store.missing())
  ours, labels = result(tmp_path, form)
  assert ours.dtype == np.uint8
  np.testing.assert_array_equal(ours, images)
  np.testing.assert_array_equal(labels, LABELS)
  about = json.loads((tmp_path / 'samples.json').read_text())
  assert about['complete'] is True and about['nfe_per_image'] == 2
  assert about['guidance'] == 'ig:1.5' and about['format'] == form
  with Image.open(tmp_path / 'samples.png') as preview:
    assert preview.size[0] > preview.size[1]  # three rows of ten images
  names = {path.name for path in tmp_path.iterdir()}
  expected = {'samples.json', 'samples.png'}
  expected |= {'samples.npz'} if form == 'npz' else {'images', 'labels.txt'}
  assert names == expected


@pytest.mark.parametrize('form', image_folder.FORMATS)
@pytest.mark.parametrize('again', [1, 5, 40])
def test_goes_on_with_another_batch_size(tmp_path, form, again):
  first = opened(tmp_path, form)
  for index in (np.arange(4), np.asarray([9, 7, 15, 22])):
    first.add(index, COLOR[index])
  first.close()
  second = opened(tmp_path, form)
  done = {0, 1, 2, 3, 7, 9, 15, 22}
  assert set(second.missing().tolist()) == set(range(COUNT)) - done
  fill(second, COLOR, again)
  np.testing.assert_array_equal(result(tmp_path, form)[0], COLOR)


def test_done_stays_done(tmp_path):
  fill(opened(tmp_path), GRAY)
  before = (tmp_path / 'samples.npz').stat().st_mtime_ns
  store = opened(tmp_path)
  assert store.complete and not len(store.missing())
  store.close()
  assert (tmp_path / 'samples.npz').stat().st_mtime_ns == before


def test_weights_may_be_moved(tmp_path):
  """The protocol identifies weights by a hash, not by the path of a folder."""
  places = (
    PROTOCOL | {'folder': f'{place}/net', 'guide': {'folder': f'{place}/weak'}}
    for place in ('/here', '/elsewhere')
  )
  fill(opened(tmp_path, protocol=next(places)), GRAY)
  store = opened(tmp_path, protocol=next(places))
  assert store.complete
  store.close()


@pytest.mark.parametrize('form', image_folder.FORMATS)
def test_killed_while_everything_is_put_together(tmp_path, form, monkeypatch):
  store = opened(tmp_path, form)
  with monkeypatch.context() as patch:
    patch.setattr(image_folder.ImageFolder, '_write_protocol', killed)
    with pytest.raises(KeyboardInterrupt):
      fill(store, GRAY)
  store.close()
  again = opened(tmp_path, form)
  assert not again.complete and not len(again.missing())
  again.finish({})
  again.close()
  np.testing.assert_array_equal(result(tmp_path, form)[0], GRAY)


def killed(*args, **kwargs):
  raise KeyboardInterrupt


@pytest.mark.parametrize('form', image_folder.FORMATS)
def test_half_written_files_do_not_count(tmp_path, form):
  store = opened(tmp_path, form)
  store.add(np.arange(4), GRAY[:4])
  store.close()
  inside = tmp_path / ('parts' if form == 'npz' else 'images')
  name = '00000004.npz' if form == 'npz' else '000004.png'
  partial = inside / f'.{name}.4711'
  partial.write_bytes(b'half')
  (tmp_path / '.samples.npz.4711').write_bytes(b'half')
  (tmp_path / '.keep').write_text('of the user')
  with locked(tmp_path):
    again = opened(tmp_path, form)
    again.close()
    assert again.missing()[0] == 4
  assert not partial.exists() and not (tmp_path / '.samples.npz.4711').exists()
  assert (tmp_path / '.keep').exists()


@pytest.mark.parametrize(('changes', 'message'), [
  ({'guidance': 'cfg:2'}, r'guidance: "ig:1.5" -> "cfg:2"'),
  ({'sampling': {'steps': 10}}, 'sampling.steps: 50 -> 10'),
  ({'seed': 1, 'guidance': 'none'}, 'guidance: .*; seed: 0 -> 1'),
  ({'new': None}, 'new: "absent" -> null'),
])  # fmt: skip
@pytest.mark.parametrize('whole', [True, False])
def test_another_protocol_is_refused(tmp_path, changes, message, whole):
  store = opened(tmp_path)
  if whole:
    fill(store, GRAY)
  store.close()
  other = PROTOCOL | changes
  with pytest.raises(InputError, match=message) as error:
    opened(tmp_path, protocol=other)
  assert '--overwrite' in str(error.value)
  if whole:  # No image was deleted.
    np.testing.assert_array_equal(result(tmp_path, 'npz')[0], GRAY)
  fill(opened(tmp_path, protocol=other, overwrite=True), GRAY[::-1].copy())
  np.testing.assert_array_equal(result(tmp_path, 'npz')[0], GRAY[::-1])


def test_another_format_is_another_protocol(tmp_path):
  fill(opened(tmp_path), GRAY)
  with pytest.raises(InputError, match='format: "npz" -> "png"'):
    opened(tmp_path, 'png')
  fill(opened(tmp_path, 'png', overwrite=True), GRAY)
  assert not (tmp_path / 'samples.npz').exists()


@pytest.mark.parametrize('overwrite', [True, False])
@pytest.mark.parametrize(
  'name', ['samples.npz', 'samples.png', 'labels.txt', 'images', 'parts']
)
def test_what_is_not_ours_is_left_alone(tmp_path, name, overwrite):
  mine = tmp_path / name
  if '.' not in name:
    mine.mkdir()
    mine = mine / '000001.png'
  mine.write_bytes(b'mine')
  with pytest.raises(InputError, match=f'holds {name}, but no samples.json'):
    opened(tmp_path, overwrite=overwrite)
  assert mine.read_bytes() == b'mine'


@pytest.mark.parametrize('text', ['', '{', '[]', '{"a": 1}', '5', '"complete"',
                                  '{"complete": 1}'])  # fmt: skip
def test_a_protocol_that_is_not_ours_is_left_alone(tmp_path, text):
  fill(opened(tmp_path), GRAY)
  (tmp_path / 'samples.json').write_text(text)
  for overwrite in (False, True):
    with pytest.raises(InputError, match='not written by this command'):
      opened(tmp_path, overwrite=overwrite)
  np.testing.assert_array_equal(result(tmp_path, 'npz')[0], GRAY)


def test_overwriting_takes_only_what_is_ours(tmp_path):
  fill(opened(tmp_path, 'png'), GRAY)
  mine = [tmp_path / 'images' / 'holiday.jpg', tmp_path / '.notes.3',
          tmp_path / 'images' / 'notes.png']  # fmt: skip
  for path in mine:
    path.write_bytes(b'mine')
  other = PROTOCOL | {'seed': 1}
  fill(opened(tmp_path, protocol=other, overwrite=True), GRAY)
  assert all(path.read_bytes() == b'mine' for path in mine)
  assert not (tmp_path / 'images' / '000000.png').exists()


def test_one_command_at_a_time(tmp_path):
  with locked(tmp_path):
    with pytest.raises(InputError, match='is being written by `sample`'):
      with locked(tmp_path):
        pass
    fill(opened(tmp_path), GRAY)
  with locked(tmp_path):
    assert opened(tmp_path).complete


def test_images_that_are_removed_meanwhile_are_said(tmp_path):
  store = opened(tmp_path)
  for index in np.split(np.arange(COUNT), (8, 16)):
    store.add(index, GRAY[index])
  store._wait()
  (tmp_path / 'parts' / '00000008.npz').unlink()
  with pytest.raises(WriteError, match='8 finished images are no longer in'):
    store.finish({})
  store.close()
  again = opened(tmp_path)
  assert len(again.missing()) == 8
  fill(again, GRAY)


def test_a_damaged_part_is_drawn_again(tmp_path):
  store = opened(tmp_path)
  for begin in (0, 4, 8):
    store.add(np.arange(begin, begin + 4), GRAY[begin : begin + 4])
  store.close()
  (tmp_path / 'parts' / '00000000.npz').write_bytes(b'')
  part = tmp_path / 'parts' / '00000004.npz'
  part.write_bytes(part.read_bytes()[:-40])
  again = opened(tmp_path)
  assert again.missing().tolist() == [*range(8), *range(12, COUNT)]
  fill(again, GRAY)
  np.testing.assert_array_equal(result(tmp_path, 'npz')[0], GRAY)


@pytest.mark.parametrize('form', image_folder.FORMATS)
def test_results_that_are_gone_are_drawn_again(tmp_path, form):
  fill(opened(tmp_path, form), GRAY)
  if form == 'npz':
    (tmp_path / 'samples.npz').unlink()
  else:
    (tmp_path / 'images' / '000007.png').unlink()
  store = opened(tmp_path, form)
  assert not store.complete
  assert len(store.missing()) == (COUNT if form == 'npz' else 1)
  fill(store, GRAY)
  np.testing.assert_array_equal(result(tmp_path, form)[0], GRAY)


def test_a_failed_write_is_not_swallowed(tmp_path, monkeypatch):
  store = opened(tmp_path)

  def full(path, data):
    raise OSError(28, 'No space left on device', str(path))

  monkeypatch.setattr(type(store.folder), 'write_bytes', full)
  store.add(np.arange(4), GRAY[:4])
  with pytest.raises(WriteError, match='No space'):
    store.add(np.arange(4, 8), GRAY[4:8])
  monkeypatch.undo()
  store.close()


def test_unknown_format(tmp_path):
  with pytest.raises(InputError, match='expected one of npz, png'):
    opened(tmp_path, 'jpg')


def test_more_images_than_a_part_holds_are_read_part_by_part(tmp_path):
  store = opened(tmp_path)
  loaded = []
  load = image_folder._load

  def counted(path, name):
    loaded.append((pathlib.Path(path).name, name))
    return load(path, name)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(image_folder, '_load', counted)
    fill(store, GRAY, size=5)
  assert len([name for _, name in loaded if name == 'images']) <= 2 * 5
