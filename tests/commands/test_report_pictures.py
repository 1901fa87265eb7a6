"""Tests the pictures and the tables of the command `report`."""

import io

import numpy as np
import pytest
from PIL import Image

from commands.report import page, samples
from sample.trajectory import Film


def test_what_changes_is_shown_as_it_is_said():
  """The row `change` shows four times the change, and gray for no change."""
  strong = np.full((2, 1, 64, 64, 1), 100, np.uint8)
  guided = strong.copy()
  guided[1, 0, 0, 0], guided[1, 0, 0, 1], guided[1, 0, 0, 2] = 110, 90, 255
  images = {'state': strong, 'strong': strong, 'ig': strong, 'refined': guided,
            'guided': guided}  # fmt: skip
  times = np.asarray([1.0, 0.5])
  film = Film(times, images, times, {'ig': times})
  labels, rows, animation, parts = samples._film(film, 0)
  assert labels == ['1.00', '0.50']
  assert [title for title, _, _ in rows] == [
    'state', 'strong', 'weak: ig', 'guided', 'change x 4',
  ]  # fmt: skip
  change = rows[-1][2]
  assert change.shape == (68, 2 * 68, 1)
  assert (change[2:66, 2:66] == 128).all()
  assert change[2, 70:74, 0].tolist() == [168, 88, 255, 128]
  with Image.open(io.BytesIO(animation)) as moving:
    assert (moving.n_frames, moving.size) == (2, (len(parts) * 160, 160))


@pytest.mark.parametrize(
  ('column', 'numeric'),
  [
    (['1.5', '', '-3'], True), (['2.79 ± 0.10', '1'], True),
    (['74.0%', '85.4%'], True), (['+9.2, -4.5 se', ''], True),
    (['1.4, 1.35@0-0.7', '2'], True), (['none', '1'], False),
    (['ig:1.5'], False), (['2,000', '1e-05'], True),
  ],
)  # fmt: skip
def test_columns_of_numbers_are_aligned(column, numeric):
  assert page.numeric_columns([[cell] for cell in column]) == [numeric]
