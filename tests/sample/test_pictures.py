"""Tests the layout and the writing of image files."""

import os

import numpy as np
import pytest
from etils import epath
from PIL import Image

from core.errors import InputError, WriteError
from core.files import write_json
from core.nested import without_folders
from sample import pictures


@pytest.mark.parametrize('channels', [1, 3])
def test_png(tmp_path, channels):
  image = np.arange(4 * 6 * channels, dtype=np.uint8).reshape(4, 6, channels)
  pictures.write_png(tmp_path / 'image.png', image)
  stored = np.asarray(Image.open(tmp_path / 'image.png'))
  np.testing.assert_array_equal(stored.reshape(4, 6, channels), image)


def test_tile():
  images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None]
  images = images * np.ones((5, 2, 3, 1), np.uint8)
  tiled = pictures.tile(images, 3, scale=2, gap=1)
  # The 2 x 3 cells are each 2 * 2 + 2 pixels high and 3 * 2 + 2 pixels wide.
  assert tiled.shape == (2 * 6, 3 * 8, 1)
  expected = np.full((12, 24, 1), 255, np.uint8)
  for n in range(5):
    row, column = divmod(n, 3)
    expected[6 * row + 1 : 6 * row + 5, 8 * column + 1 : 8 * column + 7] = n + 1
  np.testing.assert_array_equal(tiled, expected)


@pytest.mark.parametrize(
  ('shape', 'columns', 'scale'),
  [((4, 2, 2), 2, 1), ((4, 2, 2, 1), 0, 1), ((4, 2, 2, 1), 2, 0)],
)
def test_what_cannot_be_tiled(shape, columns, scale):
  with pytest.raises(InputError, match='expected'):
    pictures.tile(np.zeros(shape, np.uint8), columns, scale=scale)


def test_tile_keeps_pixels_in_place():
  image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
  tiled = pictures.tile(image, 1, scale=3, gap=2)
  np.testing.assert_array_equal(tiled[2:-2:3, 2:-2:3], image[0])


def test_sheet():
  gray = np.zeros((3, 4, 4, 1), np.uint8)
  color = np.full((2, 4, 4, 3), 100, np.uint8)
  sheet = pictures.sheet([('a', gray), ('b\nc', color)], 2, scale=10, margin=60)
  # An 8-pixel strip is above each block. A row of images is 4 * 10 + 4 high.
  assert sheet.shape == (8 + 2 * 44 + 8 + 44, 60 + 2 * 44, 3)
  assert sheet.dtype == np.uint8
  assert (sheet[8 + 2 : 8 + 42, 62:102] == 0).all()
  assert (sheet[:, :60] < 100).any()  # The margin shows the blocks' names.


@pytest.mark.parametrize('channels', [1, 3])
def test_enlarged_images_are_smooth(channels):
  edge = np.zeros((2, 8, 16, channels), np.uint8)
  edge[:, :, 8:] = 200
  large = pictures.enlarge(edge, 64)
  assert large.shape == (2, 64, 128, channels)
  assert len(np.unique(large[0, 32, 56:72, 0])) > 4  # not squares of one value
  np.testing.assert_array_equal(large[:, :, 8:40], 0)
  assert pictures.enlarge(edge, 8) is edge


def test_change_is_gray_without_a_change():
  base = np.asarray([10, 100, 250], np.uint8)
  images = np.asarray([10, 110, 0], np.uint8)
  change = pictures.change_from(images, base, amplified=3)
  assert change.tolist() == [128, 158, 0]


@pytest.mark.parametrize('old', [None, b'the old file'])
@pytest.mark.parametrize('method', ['write_bytes', 'replace'])
def test_failed_write_leaves_no_partial_file(
  tmp_path, monkeypatch, old, method
):
  path = tmp_path / 'samples.npz'
  if old is not None:
    path.write_bytes(old)

  def fail(self, data):
    if method == 'write_bytes':
      with open(self, 'wb') as file:
        file.write(data[: len(data) // 2])
    raise OSError('no space left on device')

  monkeypatch.setattr(type(epath.Path(path)), method, fail)
  with pytest.raises(WriteError, match='no space left'):
    pictures.write_png(path, np.zeros((4, 4, 1), np.uint8))
  assert (path.read_bytes() if path.exists() else None) == old


def test_identity_leaves_folders_out():
  protocol = {'folder': 'a', 'guide': {'folder': 'b', 'step': 3}, 'seed': 0}
  assert without_folders(protocol) == {'guide.step': 3, 'seed': 0}


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
  with pytest.raises(WriteError, match=r'a\.json could not be .*No such'):
    write_json(tmp_path / 'gone' / 'a.json', {})
  assert not [*tmp_path.iterdir()]


def test_files_are_on_the_disk_before_they_have_their_name(
  tmp_path, monkeypatch
):
  path, synced = tmp_path / 'a.json', []

  def fsync(descriptor):
    name = os.readlink(f'/proc/self/fd/{descriptor}')
    synced.append((name, path.exists()))

  monkeypatch.setattr(os, 'fsync', fsync)
  write_json(path, {})
  assert synced == [
    (f'{tmp_path}/.a.json.{os.getpid()}', False),
    (str(tmp_path), True),
  ]
