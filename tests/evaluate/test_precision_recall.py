"""Precision and recall match a brute-force search for neighbors."""

import jax
import numpy as np
import pytest

from core.errors import InputError
from evaluate.precision_recall import (
  BLOCK,
  _inside,
  _nearest,
  precision_recall,
  radii,
)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def squared_distances(u, v):
  """Returns (n, m) squared float64 distances, without a matrix product."""
  u, v = u.astype(np.float64), v.astype(np.float64)
  return np.stack([np.square(row - v).sum(1) for row in u])


def brute_radii(features, k=3):
  return np.sort(squared_distances(features, features), axis=1)[:, k]


def brute_precision_recall(reference, sample, k=3):
  distances = squared_distances(reference, sample)
  inside = distances <= brute_radii(reference, k)[:, None]
  covered = distances <= brute_radii(sample, k)
  return inside.any(0).mean(), covered.any(1).mean()


def normal(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('k', [1, 3, 5])
@pytest.mark.parametrize('n', [6, BLOCK, 2 * BLOCK + 100])
def test_radii_are_of_the_nearest(rng, n, k):
  features = normal(rng, n, 8) + 1
  ours = radii(features, k)
  assert ours.shape == (n,) and ours.dtype == np.float32
  np.testing.assert_allclose(ours, brute_radii(features, k), rtol=1e-4)


@pytest.mark.parametrize('sizes', [(300, 200), (1500, 1100), (1100, 2100)])
@pytest.mark.parametrize('k', [1, 3])
def test_precision_and_recall(rng, sizes, k):
  reference, sample = (normal(rng, n, 6) for n in sizes)
  sample[:, 0] = 0.3 * sample[:, 0] + 1  # This lowers the recall.
  ours = precision_recall(reference, sample, k)
  expected = brute_precision_recall(reference, sample, k)
  assert 0.1 < ours[1] < ours[0] < 1
  assert ours == pytest.approx(expected, abs=1e-9)
  swapped = precision_recall(sample, reference, k)
  assert swapped == pytest.approx(ours[::-1], abs=1e-9)


def test_extremes(rng):
  features = normal(rng, 100, 5)
  assert precision_recall(features, features) == (1, 1)
  assert precision_recall(features, features + 100) == (0, 0)
  # Padding adds zero rows, which must not count as neighbors of zero samples.
  assert precision_recall(features + 100, 0 * features) == (0, 0)
  # If all samples equal one reference row, precision is 1 and recall is 0.01.
  collapsed = np.repeat(features[:1], 50, axis=0)
  assert precision_recall(features, collapsed) == (1, 0.01)


def test_copies_have_no_radius(rng):
  features = np.repeat(normal(rng, 5, 16), 4, axis=0)
  assert radii(features).max() < 1e-5
  assert radii(features).min() >= 0


def test_one_program_serves_all_sets(rng):
  programs = set()
  for n, m in ((50, 60), (1100, 70), (2100, 80)):
    precision_recall(normal(rng, n, 9), normal(rng, m, 9))
    programs.add((_nearest._cache_size(), _inside._cache_size()))
  assert len(programs) == 1


def test_products_are_not_rounded(rng):
  u = normal(rng, BLOCK, 4)
  program = _inside.lower(u, u[:, 0], u, u[:, 0], float16=False)
  assert 'precision = [HIGHEST, HIGHEST]' in program.as_text()


def half_distances(u, v):
  """Returns (n, m) distances in float16 like ADM, but with float32 sums."""
  u, v = np.float16(u), np.float16(v)
  u_norm, v_norm = (
    np.square(x).astype(np.float32).sum(1).astype(np.float16) for x in (u, v)
  )
  product = np.float16(np.float32(u) @ np.float32(v).T)
  distances = u_norm[:, None] - np.float16(2) * product + v_norm
  assert distances.dtype == np.float16
  return np.maximum(distances, 0)


def test_half_precision(rng):
  features = normal(rng, 400, 16)
  ours = radii(features, float16=True)
  # After rounding to float16, nearly all values are equal.
  expected = np.sort(half_distances(features, features), axis=1)[:, 3]
  assert (ours == expected).mean() > 0.98
  np.testing.assert_array_equal(ours, np.float16(ours))
  full = radii(features)
  assert not np.allclose(ours, full, rtol=1e-5)
  np.testing.assert_allclose(ours, full, rtol=1e-2)


def test_half_precision_is_given_up_where_it_overflows(rng):
  features = normal(rng, 2 * BLOCK, 4)
  features[:8] *= 200  # The squared norms overflow float16.
  ours, full = radii(features, float16=True), radii(features)
  first = slice(BLOCK)
  assert np.isfinite(ours).all()
  # The first block overflows, so its distances are float32.
  np.testing.assert_array_equal(ours[first], full[first])
  assert (ours[BLOCK:] != full[BLOCK:]).any()
  pair = features[:300], features[200:500]
  assert precision_recall(*pair, float16=True) == precision_recall(*pair)


def test_results_do_not_depend_on_x64(rng):
  reference, sample = normal(rng, 60, 5), normal(rng, 50, 5)
  expected = precision_recall(reference, sample, float16=True)
  with jax.enable_x64():
    assert radii(reference).dtype == np.float32
    assert precision_recall(reference, sample, float16=True) == expected


@pytest.mark.parametrize(('n', 'k'), [(3, 3), (0, 3), (9, 0), (9, -1)])
def test_too_few_rows(rng, n, k):
  features = normal(rng, n, 4)
  with pytest.raises(InputError, match=f'k={k} .* there are {n}'):
    radii(features, k)
  with pytest.raises(InputError, match=f'k={k}'):
    precision_recall(normal(rng, 20, 4), features, k)


def test_bad_features(rng):
  features, bad = normal(rng, 10, 4), normal(rng, 10, 4)
  bad[2, 1] = np.nan
  for pair in ((features, bad), (bad, features)):
    with pytest.raises(InputError, match='1 of 10 rows'):
      precision_recall(*pair)
  with pytest.raises(InputError, match='3 and 4 features'):
    precision_recall(features, features[:, :3])
