"""Tests the picture that compares guidance methods."""

import io

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from evaluate.comparison_picture import (
  Strip,
  changes,
  draw_comparison,
  first_of_each,
  method_strip,
  read_strips,
  shown_classes,
  titles_of,
  write_strips,
)
from evaluate.metrics import Estimate
from guidance.parse import METHODS


def strips(side=8, count=3):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, count, side, side, 1)).astype(np.uint8)
  return [
    Strip('Real images', 'Held out.', images[0], Estimate(0.1, 0.05), True),
    method_strip('none', 16, images[1], Estimate(3.0, 0.2)),
    method_strip('ig:1.5', 16, images[2], Estimate(2.0)),
  ]


@pytest.mark.parametrize('name', METHODS)
def test_every_method_has_a_description(name):
  title, sentence = titles_of(f'{name}:1')
  assert title[0].isupper()
  assert sentence.startswith('Steers away from ') and sentence.endswith('.')


def test_descriptions_of_several_methods():
  assert titles_of('none')[0] == 'No guidance'
  title, sentence = titles_of('ig:1.5,cfg:1.2')
  assert title == 'IG + CFG'
  assert sentence == (
    'Steers away from the prediction of an earlier block and from the '
    'prediction without a class.'
  )


def test_the_first_image_of_each_class():
  labels = np.asarray([2, 0, 0, 2, 1])
  images = np.arange(5, dtype=np.uint8)[:, None, None, None]
  shown = first_of_each(images, labels, 4)
  assert shown.ravel().tolist() == [1, 4, 0, 255]  # class 3 has no image


def test_classes_are_evenly_spaced():
  assert shown_classes(3).tolist() == [0, 1, 2]
  assert shown_classes(1000).tolist() == [
    0, 111, 222, 333, 444, 555, 666, 777, 888, 999,
  ]  # fmt: skip


def test_changes_are_relative_to_the_first_method():
  rows = strips()
  rows[2] = method_strip('ig:1.5', 16, rows[1].images, Estimate(1.0))
  assert list(changes(rows)) == [2]
  assert (changes(rows)[2] == 128).all()


def test_text_of_a_method():
  none, ig = strips()[1:]
  assert none.text == 'NFE 16\nThe network on its own.'
  assert ig.text.splitlines()[0] == 'ig:1.5, NFE 16'


@pytest.mark.parametrize('side', [8, 100])
def test_picture_shows_every_image_in_its_place(side):
  rows = strips(side)
  file = io.BytesIO()
  figure = draw_comparison(rows, ['a', 'b', 'c'], 'Distance')
  figure.savefig(file, format='png', dpi='figure')
  (axes,) = figure.axes
  assert [text.get_text() for text in axes.texts] == [
    '0.10 ± 0.05', '3.00 ± 0.20', '2.00',
  ]  # fmt: skip
  picture = np.asarray(Image.open(file).convert('L')).astype(int)
  large = max(side, 84)
  top, left = 84 + 2, 360 + 2
  step = large + 4
  for row, images in enumerate(
    (rows[0].images, rows[1].images, rows[2].images, changes(rows)[2])
  ):
    for column in range(3):
      y, x = top + row * step, left + column * step
      part = picture[y : y + large, x : x + large]
      expected = Image.fromarray(images[column, ..., 0])
      expected = expected.resize((large, large), Image.Resampling.BICUBIC)
      assert np.abs(part - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize('first', ['none', 'ig:1.4,cfg:1.35@0-0.7,s2:1.25'])
def test_texts_on_the_left_do_not_overlap(first):
  real, _, ig = strips()
  texts = (first, 'ig:1.4,cfg:1.35@0-0.7,s2:1.25', 'cfg:1.5')
  rows = [method_strip(text, 16, ig.images, Estimate(2.0)) for text in texts]
  figure = draw_comparison([real, *rows], ['a', 'b', 'c'], 'Distance')
  figure.draw_without_rendering()
  boxes = [text.get_window_extent() for text in figure.texts]
  for k, box in enumerate(boxes):
    assert not any(box.overlaps(other) for other in boxes[k + 1 :])


def test_strips_are_stored(tmp_path):
  write_strips(tmp_path / 'compare.npz', strips(), ['a', 'b', 'c'])
  stored, classes = read_strips(tmp_path / 'compare.npz')
  assert classes == ['a', 'b', 'c']
  for one, other in zip(stored, strips(), strict=True):
    assert (one.title, one.text, one.is_real) == (
      other.title, other.text, other.is_real,
    )  # fmt: skip
    np.testing.assert_array_equal(one.images, other.images)


def test_damaged_strips(tmp_path):
  path = tmp_path / 'compare.npz'
  write_strips(path, strips(), ['a', 'b', 'c'])
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(InputError, match=r'compare\.npz is damaged'):
    read_strips(path)
