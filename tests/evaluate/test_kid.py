"""Inception Score and KID match closed forms and plain loops."""

import numpy as np
import pytest

from core.errors import InputError
from evaluate.inception_score import inception_score
from evaluate.kid import kernel_distance


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def plain_score(logits):
  """Returns the published Inception Score, computed in a loop over images."""
  p = [np.exp(row) / np.exp(row).sum() for row in logits.astype(np.float64)]
  q = np.mean(p, axis=0)
  return np.exp(np.mean([(row * np.log(row / q)).sum() for row in p]))


def test_score_of_certain_and_even_predictions():
  certain = np.repeat(50 * np.eye(4), 25, axis=0)
  assert inception_score(certain) == pytest.approx((4, 0))
  assert inception_score(np.zeros((100, 4))) == pytest.approx((1, 0))
  # All images in a split have one class, so the score of each split is 1.
  assert inception_score(certain, split_size=25) == pytest.approx((1, 0))


def test_score_in_parts_of_a_size(rng):
  logits = rng.normal(size=(105, 7)) * 2
  parts = [plain_score(logits[i : i + 25]) for i in range(0, 105, 25)]
  assert len(parts) == 5
  expected = np.mean(parts), np.std(parts)
  assert inception_score(logits, split_size=25) == pytest.approx(expected)
  assert inception_score(logits)[0] == pytest.approx(plain_score(logits))


def test_score_of_large_logits():
  logits = np.float32([[2000, 0, -2000], [0, 2000, -2000]])
  assert inception_score(logits) == pytest.approx((2, 0))


def test_score_leaves_its_logits_alone(rng):
  logits = rng.normal(size=(9, 3))
  before = logits.copy()
  inception_score(logits)
  np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize('size', [0, -5])
def test_score_of_empty_parts(rng, size):
  with pytest.raises(InputError, match='Inception Score of 9 images'):
    inception_score(rng.normal(size=(9, 3)), split_size=size)


def test_score_of_bad_logits():
  with pytest.raises(InputError, match='Inception Score of 0 images'):
    inception_score(np.zeros((0, 3)))
  with pytest.raises(InputError, match='1 of 2 rows'):
    inception_score(np.asarray([[0, np.nan], [0, 1]]))


def plain_mmd(x, y):
  """Returns the unbiased squared MMD, computed in loops over pairs."""
  m = len(x)

  def kernel(a, b):
    return (np.dot(a, b) / len(a) + 1) ** 3

  apart = [(i, j) for i in range(m) for j in range(m) if i != j]
  within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in apart)
  between = sum(kernel(a, b) for a in x for b in y)
  return within / (m * (m - 1)) - 2 * between / m**2


def test_kernel_distance(rng):
  sample, reference = rng.normal(size=(30, 5)) + 0.5, rng.normal(size=(40, 5))
  ours = kernel_distance(sample, reference, subsets=4, subset_size=11, seed=7)
  draws, values = np.random.RandomState(7), []
  for _ in range(4):
    x = sample[draws.choice(30, 11, replace=False)]
    y = reference[draws.choice(40, 11, replace=False)]
    values.append(plain_mmd(x, y))
  assert ours == pytest.approx((np.mean(values), np.std(values)), rel=1e-10)


def test_kernel_distance_is_unbiased(rng):
  a, b = rng.normal(size=(2, 1000, 4))
  mean, spread = kernel_distance(a, b, subsets=200, subset_size=50)
  assert abs(mean) < 5 * spread / np.sqrt(200)
  far, _ = kernel_distance(a + 1, b, subsets=20, subset_size=50)
  assert far > 10 * spread


@pytest.mark.parametrize(
  ('subsets', 'size'), [(1, 21), (1, 1000), (0, 10), (1, 1), (1, -3)]
)
def test_subsets_must_fit(rng, subsets, size):
  a, b = rng.normal(size=(20, 3)), rng.normal(size=(30, 3))
  for pair in ((a, b), (b, a)):
    with pytest.raises(InputError, match='of 2 to 20 images'):
      kernel_distance(*pair, subsets=subsets, subset_size=size)


def test_kernel_distance_of_bad_features(rng):
  features = rng.normal(size=(20, 3))
  options = {'subsets': 1, 'subset_size': 5}
  with pytest.raises(InputError, match='20 of 20 rows'):
    kernel_distance(features, features * np.nan, **options)
  with pytest.raises(InputError, match='2 and 3 features'):
    kernel_distance(features[:, :2], features, **options)
