"""Tests images in IDX files of the MNIST family and in .npz files."""

import gzip
import struct

import numpy as np
import pytest

from core.errors import InputError
from input_pipeline.image_files import open_images
from input_pipeline.images import center_crop, decode
from input_pipeline.prepare import PrepareConfig, layout_of, prepare
from input_pipeline.records import LatentSource

COUNT = 6
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(COUNT, 5, 5), dtype=np.uint8)
LABELS = np.asarray([3, 0, 1, 3, 2, 0], np.uint8)


def idx(array):
  """Returns an array as the bytes of an IDX file."""
  shape = struct.pack(f'>{array.ndim}i', *array.shape)
  return bytes((0, 0, 8, array.ndim)) + shape + array.tobytes()


def write(folder, images=None, labels=None, suffix=''):
  """Writes two IDX files, and returns the path of the images."""
  pack = gzip.compress if suffix else bytes
  for name, data, default in (
    ('images-idx3', images, IMAGES),
    ('labels-idx1', labels, LABELS),
  ):
    path = folder / f'train-{name}-ubyte{suffix}'
    path.write_bytes(pack(idx(default) if data is None else data))
  return str(folder / f'train-images-idx3-ubyte{suffix}')


def arrays_of(files):
  """Returns the decoded gray images and the labels of a set."""
  items = [files.read(i) for i in range(files.count)]
  crops = [
    center_crop(decode(item.load(), files.channels), 5) for item in items
  ]
  return np.stack(crops), [item.label for item in items]


@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_idx_files_are_read_exactly(tmp_path, suffix):
  files = open_images(write(tmp_path, suffix=suffix), '')
  assert (files.count, files.channels) == (COUNT, 1)
  assert files.classes == ('0', '1', '2', '3')
  images, labels = arrays_of(files)
  np.testing.assert_array_equal(images, IMAGES[..., None])
  assert labels == LABELS.tolist()


@pytest.mark.parametrize('channels', [1, 3])
def test_npz_files_are_read_exactly(tmp_path, channels):
  images = RNG.integers(256, size=(COUNT, 5, 5, channels), dtype=np.uint8)
  np.savez(tmp_path / 'a.npz', images, LABELS.astype(np.int64))
  files = open_images(str(tmp_path / 'a.npz'), '')
  assert files.channels == channels
  found, labels = arrays_of(files)
  np.testing.assert_array_equal(found, images)
  assert labels == LABELS.tolist()


def test_records_keep_one_channel_and_the_names(tmp_path):
  files = open_images(write(tmp_path), '').rename(['shirt', 'bag', 'coat', 'a'])
  config = PrepareConfig(
    image_size=5, dtype='float16', batch_size=4, shard_records=4, threads=1,
    max_broken=0,
  )  # fmt: skip
  layout = layout_of(config, None, False, files.channels)
  assert layout.shape == (5, 5, 1)
  metadata = prepare(
    files, None, config, layout, tmp_path / 'data' / 'train', about={}
  )
  assert metadata.classes == ('shirt', 'bag', 'coat', 'a')
  source = LatentSource(tmp_path / 'data' / 'train')
  for i in range(COUNT):
    record = source[i]
    np.testing.assert_array_equal(record['pixels'][0], IMAGES[i, ..., None])
    assert record['label'] == LABELS[i]


@pytest.mark.parametrize(
  ('images', 'labels', 'words'),
  [
    (idx(IMAGES)[:-1], None, 'fewer follow'),
    (idx(IMAGES) + b'0', None, 'more follow'),
    (b'GIF89a', None, 'does not start like an IDX file'),
    (idx(LABELS), None, 'does not start like an IDX file'),
    (b'', None, 'does not start like an IDX file'),
    (idx(IMAGES)[:9], None, 'does not start like an IDX file'),
    (bytes((0, 0, 8, 3)) + b'\x7f' * 12, None, 'is damaged: its shape'),
    (idx(IMAGES[:4]), None, 'has 4 images, but'),
    (idx(IMAGES[:0]), idx(LABELS[:0]), 'holds no image'),
    (gzip.compress(idx(IMAGES))[:-20], None, 'cannot be read'),
  ],
)
def test_damaged_idx_files_are_refused(tmp_path, images, labels, words):
  with pytest.raises(InputError, match=words):
    open_images(write(tmp_path, images, labels), '')


def test_missing_labels_are_named(tmp_path):
  place = write(tmp_path)
  (tmp_path / 'train-labels-idx1-ubyte').unlink()
  with pytest.raises(
    InputError, match='train-labels-idx1-ubyte cannot be read'
  ):
    open_images(place, '')


@pytest.mark.parametrize(
  ('arrays', 'words'),
  [
    ((IMAGES,), 'lacks arr_0'),
    ((np.stack([IMAGES] * 4, -1), LABELS), 'expected images'),
    ((IMAGES, LABELS), 'expected images'),
    ((np.float32(IMAGES[..., None]), LABELS), 'expected images'),
    ((IMAGES[..., None], LABELS[:3]), 'expected the labels'),
    ((IMAGES[..., None], LABELS - 0.5), 'expected the labels'),
    ((IMAGES[..., None], LABELS.astype(int) - 1), 'labels are -1'),
  ],
)
def test_other_npz_files_are_refused(tmp_path, arrays, words):
  np.savez(tmp_path / 'a.npz', *arrays)
  with pytest.raises(InputError, match=words):
    open_images(str(tmp_path / 'a.npz'), '')


@pytest.mark.parametrize('names', [['a'], ['a', 'b', 'c', 'c']])
def test_wrong_class_names_are_refused(tmp_path, names):
  with pytest.raises(InputError, match='--class_names has'):
    open_images(write(tmp_path), '').rename(names)
