import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from evaluate.image_sets import open_image_set

COUNT = 150  # more images than one read returns


def pictures(count=COUNT, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)


def read(images, start=0, stop=None):
  return np.concatenate(list(images.batches()))[start:stop]


def png(image):
  data = io.BytesIO()
  Image.fromarray(image).save(data, 'png')
  return data.getvalue()


def write_folder(folder, images, labels=None):
  (folder / 'images').mkdir(parents=True)
  for i, image in enumerate(images):
    (folder / 'images' / f'{i:06}.png').write_bytes(png(image))
  if labels is not None:
    (folder / 'labels.txt').write_text('\n'.join(map(str, labels)))
    (folder / 'samples.png').write_bytes(png(images[0]))  # This is no sample.


def open_at(place, **options):
  return open_image_set(str(place), 'unused', **options)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('channels', [1, 3])
def test_npz(tmp_path, save, channels):
  images, labels = pictures(channels=channels), np.arange(COUNT) % 10
  save(tmp_path / 'a.npz', images, labels)
  found = open_at(tmp_path / 'a.npz')
  assert found.count == COUNT and found.eight_bit
  np.testing.assert_array_equal(found.labels, labels)
  np.testing.assert_array_equal(read(found), images)
  np.testing.assert_array_equal(read(found, 70, 140), images[70:140])
  np.testing.assert_array_equal(read(found, 3, 5), images[3:5])  # out of order


def test_float_images_keep_what_lies_between(tmp_path):
  images = np.random.default_rng(0).random((9, 8, 8, 3))
  np.savez(tmp_path / 'a.npz', images)
  found = open_at(tmp_path / 'a.npz')
  assert not found.eight_bit and found.labels is None
  np.testing.assert_allclose(read(found), images * 255, rtol=1e-6)


@pytest.mark.parametrize('labels', [None, np.arange(COUNT) % 3])
def test_folder_and_zip(tmp_path, labels):
  write_folder(tmp_path / 'a', pictures(), labels)
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    for path in (tmp_path / 'a').rglob('*.*'):
      archive.write(path, path.relative_to(tmp_path / 'a'))
  for place in ('a', 'a.zip'):
    found = open_at(tmp_path / place)
    assert found.count == COUNT and found.eight_bit
    np.testing.assert_array_equal(read(found), pictures())
    if labels is None:
      assert found.labels is None
    else:
      np.testing.assert_array_equal(found.labels, labels)


def test_image_files_are_cut_to_size(tmp_path):
  write_folder(tmp_path / 'a', [pictures(1)[0], pictures(1)[0, :6]])
  with pytest.raises(InputError, match=r'eval\.image_size'):
    read(open_at(tmp_path / 'a'))
  cut = read(open_at(tmp_path / 'a', image_size=4))
  assert cut.shape == (2, 4, 4, 3)


def npz_of(**arrays):
  def write(folder):
    np.savez(folder / 'a.npz', **arrays)
    return folder / 'a.npz'

  return write


def changed_npz(change, images, save=np.savez):
  """Returns a function that writes an .npz, and edits its bytes by `change`."""

  def write(folder):
    save(folder / 'a.npz', images)
    data = (folder / 'a.npz').read_bytes()
    (folder / 'a.npz').write_bytes(change(data, len(data) // 2))
    return folder / 'a.npz'

  return write


def wrong_labels(folder):
  write_folder(folder / 'a', pictures(2), ['cat', 'dog'])
  return folder / 'a'


def broken_file(folder):
  write_folder(folder / 'a', pictures(3))
  (folder / 'a/images/000001.png').write_bytes(b'no image')
  return folder / 'a'


def missing_image(folder):
  write_folder(folder / 'a', pictures(3), [0, 1, 2])
  (folder / 'a/images/000001.png').unlink()
  return folder / 'a'


def test_arrays_are_not_cut(tmp_path):
  np.savez(tmp_path / 'a.npz', pictures(2))
  with pytest.raises(InputError, match='leave it out'):
    open_at(tmp_path / 'a.npz', image_size=4)


def test_other_arrays_are_no_labels(tmp_path, caplog):
  np.savez(tmp_path / 'a.npz', pictures(2), np.zeros((2, 5)))
  assert open_at(tmp_path / 'a.npz').labels is None
  assert 'not used as labels' in caplog.text


FLOATS = np.full((2, 8, 8, 3), 0.5)


@pytest.mark.parametrize(('write', 'words'), [
  (npz_of(images=pictures(2)), 'holds images, but no arr_0'),
  (npz_of(arr_0=pictures(2)[0]), 'channels last'),
  (npz_of(arr_0=pictures(2).transpose(0, 3, 1, 2)), 'channels last'),
  (npz_of(arr_0=pictures(0)), 'channels last'),
  (npz_of(arr_0=np.int32(pictures(2))), 'type int32'),
  (npz_of(arr_0=np.asfortranarray(pictures(2))), 'Fortran'),
  (npz_of(arr_0=FLOATS * 3), r'from 1\.5 to 1\.5'),
  (npz_of(arr_0=FLOATS - 1), r'from -0\.5'),
  (npz_of(arr_0=FLOATS * np.nan), 'not finite'),
  (npz_of(arr_0=np.zeros((2, 0, 0, 3), np.uint8)), 'channels last'),
  (changed_npz(lambda data, at: data[: at - 20] + bytes(20) + data[at:],
               np.zeros((99, 8, 8, 3), np.uint8), np.savez_compressed),
   'damaged'),
  (wrong_labels, 'expected the number of a class'),
  (lambda folder: folder / 'edm2.pkl', 'is a pickle'),
  (npz_of(arr_0=np.array([{}], object)), 'expected'),
  (changed_npz(lambda data, at: data[:at], pictures(4)), 'damaged'),
  (changed_npz(
    lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
    pictures(4)), 'damaged'),
  (broken_file, r'000001\.png is broken'),
  (missing_image, 'is the set complete'),
  (lambda folder: folder, 'holds no image'),
  (lambda folder: folder / 'nothing', 'do not exist'),
])  # fmt: skip
def test_bad_input(tmp_path, write, words):
  with pytest.raises(InputError, match=words):
    read(open_at(write(tmp_path)))


def test_a_folder_of_samples_is_the_samples(tmp_path):
  images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
  np.savez(tmp_path / 'samples.npz', arr_0=images, arr_1=np.arange(4))
  Image.fromarray(images[0]).save(tmp_path / 'samples.png')
  found = open_at(tmp_path)
  assert found.count == 4 and found.labels.tolist() == [0, 1, 2, 3]
  np.testing.assert_array_equal(next(found.batches()), images)
