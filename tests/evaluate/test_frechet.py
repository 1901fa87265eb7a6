"""The Frechet distance matches closed forms. Moments can be streamed."""

import logging

import numpy as np
import pytest
import scipy.linalg

from core.errors import InputError
from evaluate import frechet
from evaluate.frechet import (
  Moments,
  MomentsAccumulator,
  bootstrap,
  extrapolated,
  frechet_distance,
)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def random_covariance(rng, size, rank=None):
  root = rng.normal(size=(size, rank or size))
  return root @ root.T / size


@pytest.mark.parametrize('count', [1000, 6])
def test_identical_sets_are_at_zero(rng, count):
  # The covariance of ten features over six rows is singular.
  moments = Moments.of(rng.normal(size=(count, 10)) * 3 + 1)
  assert abs(frechet_distance(moments, moments)) < 1e-5


def test_moments(rng):
  features = rng.normal(size=(7, 3)).astype(np.float32)
  moments = Moments.of(features)
  assert moments.mean.dtype == moments.covariance.dtype == np.float64
  centered = features - features.astype(np.float64).mean(0)
  np.testing.assert_allclose(moments.covariance, centered.T @ centered / 6)


def test_one_feature():
  a, b = Moments.of(np.asarray([[0.0], [2.0]])), Moments.of([[4.0], [5.0]])
  # Means are 1 and 4.5. Standard deviations are sqrt(2) and sqrt(0.5).
  expected = 3.5**2 + (2**0.5 - 0.5**0.5) ** 2
  assert frechet_distance(a, b) == pytest.approx(expected)


def test_commuting_covariances(rng):
  vectors, _ = np.linalg.qr(rng.normal(size=(8, 8)))
  means, values = rng.normal(size=(2, 8)), rng.uniform(0.1, 4, size=(2, 8))
  a, b = (
    Moments(mean, (vectors * value) @ vectors.T)
    for mean, value in zip(means, values, strict=True)
  )
  expected = np.square(means[0] - means[1]).sum()
  expected += np.square(np.sqrt(values[0]) - np.sqrt(values[1])).sum()
  assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_any_covariances(rng):
  a, b = (
    Moments(rng.normal(size=8), random_covariance(rng, 8)) for _ in range(2)
  )
  product = a.covariance @ b.covariance
  assert not np.allclose(product, product.T)
  expected = np.square(a.mean - b.mean).sum() + np.trace(
    a.covariance + b.covariance - 2 * scipy.linalg.sqrtm(product).real
  )
  assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
  assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_one_reference_pays_its_eigenvectors_once(rng, monkeypatch):
  calls = []
  eigh = np.linalg.eigh
  monkeypatch.setattr(np.linalg, 'eigh', lambda a: calls.append(1) or eigh(a))
  features = rng.normal(size=(50, 6))
  reference = Moments(np.zeros(6), random_covariance(rng, 6))
  frechet_distance(Moments.of(features), reference)
  bootstrap(features, reference, 3)
  assert len(calls) == 1
  np.testing.assert_allclose(
    reference.root @ reference.root, reference.covariance, atol=1e-12
  )


def test_singular_covariances(rng):
  # a is a rotated N(0, diag(4, 1, 0)), and b is a rotated N(0, diag(1, 0, 0)).
  vectors, _ = np.linalg.qr(rng.normal(size=(3, 3)))
  a, b = (
    Moments(np.zeros(3), (vectors * np.asarray(value)) @ vectors.T)
    for value in ([4.0, 1, 0], [1.0, 0, 0])
  )
  assert frechet_distance(a, b) == pytest.approx(1 + 1, abs=1e-6)


def test_sampled_gaussians(rng):
  root = rng.normal(size=(4, 4))
  draws = rng.normal(size=(40_000, 4))
  ours = frechet_distance(Moments.of(draws), Moments.of(draws @ root.T + 1))
  # The expected value is the distance between N(0, I) and N(1, R R^T).
  values = np.linalg.svd(root, compute_uv=False)
  expected = 4 + np.square(values - 1).sum()
  assert ours == pytest.approx(expected, rel=0.02)


def test_order_does_not_matter(rng):
  a, b = rng.normal(size=(50, 6)), rng.normal(size=(40, 6)) * 2
  expected = frechet_distance(Moments.of(a), Moments.of(b))
  shuffled = frechet_distance(Moments.of(rng.permutation(a)), Moments.of(b))
  assert shuffled == pytest.approx(expected)
  order = rng.permutation(6)
  turned = frechet_distance(Moments.of(a[:, order]), Moments.of(b[:, order]))
  assert turned == pytest.approx(expected)


def standard_error(features, reference):
  return bootstrap(features, reference, resamples=100).std(ddof=1)


def test_bootstrap_is_the_spread_over_sets(rng):
  reference = Moments(np.zeros(3), np.eye(3))
  sets = rng.normal(size=(200, 300, 3)) * [1.5, 1, 1] + [0.5, 0, 0]
  distances = [frechet_distance(Moments.of(s), reference) for s in sets]
  errors = [standard_error(s, reference) for s in sets[:10]]
  assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.2)


def test_bootstrap_of_pairs_is_the_spread_of_their_difference(rng):
  reference = Moments(np.zeros(3), np.eye(3))
  firsts = rng.normal(size=(200, 300, 3)) * [1.5, 1, 1] + [0.5, 0, 0]
  # The two sets correlate, so the difference of the two distances has a smaller
  # error than each distance.
  seconds = firsts * [1, 0.9, 1] + 0.1 * rng.normal(size=firsts.shape)

  def distance(features):
    return frechet_distance(Moments.of(features), reference)

  pairs = list(zip(firsts, seconds, strict=True))
  spread = np.std([distance(a) - distance(b) for a, b in pairs])
  errors = [
    (bootstrap(a, reference, 100) - bootstrap(b, reference, 100)).std(ddof=1)
    for a, b in pairs[:10]
  ]
  assert np.mean(errors) == pytest.approx(spread, rel=0.25)
  assert spread < standard_error(firsts[0], reference) / 2


def test_bootstrap_is_reproducible(rng):
  features, reference = rng.normal(size=(50, 3)), Moments(np.ones(3), np.eye(3))
  first, again, other = (
    bootstrap(features, reference, 20, seed=seed) for seed in (4, 4, 5)
  )
  assert first.shape == (20,)
  np.testing.assert_array_equal(first, again)
  assert not np.isin(first, other).any()


@pytest.fixture
def stream(rng):
  """Returns features with a mean far from zero, in more than two blocks."""
  scales = rng.uniform(0.1, 3, size=12)
  features = rng.normal(size=(2 * frechet.BLOCK + 77, 12)) * scales + 50
  return features.astype(np.float32)


def accumulated(features, sizes):
  accumulator = MomentsAccumulator()
  for rows in np.split(features, np.cumsum(sizes)):
    accumulator.add(rows)
  return accumulator.moments()


def assert_same(ours, mean, covariance, tolerance):
  np.testing.assert_allclose(ours.mean, mean, rtol=tolerance)
  scale = np.abs(covariance).max()
  np.testing.assert_allclose(
    ours.covariance, covariance, rtol=0, atol=tolerance * scale
  )


@pytest.mark.parametrize(
  'sizes', [(), (1,), (7, 0, 250), (4096, 4096), (4000, 200), (1,) * 300]
)
def test_a_stream_has_the_moments_of_the_whole(stream, sizes):
  ours = accumulated(stream, sizes)
  whole = stream.astype(np.float64)
  assert ours.count == len(stream)
  assert_same(ours, whole.mean(0), np.cov(whole, rowvar=False), 1e-12)
  at_once = Moments.of(stream)
  np.testing.assert_array_equal(ours.mean, at_once.mean)
  np.testing.assert_array_equal(ours.covariance, at_once.covariance)


def test_the_order_of_a_stream_does_not_matter(stream, rng):
  ordered = np.sort(stream, axis=0)
  for one, other in ((stream, stream), (ordered, ordered[::-1])):
    ours, expected = Moments.of(rng.permutation(one)), Moments.of(other)
    assert_same(ours, expected.mean, expected.covariance, 1e-9)


def test_moments_may_be_asked_for_on_the_way(stream):
  accumulator = MomentsAccumulator()
  accumulator.add(stream[:100])
  first = accumulator.moments()
  covariance = first.covariance.copy()
  accumulator.add(stream[100:])
  ours, expected = accumulator.moments(), Moments.of(stream)
  assert ours.count == len(stream)
  assert_same(ours, expected.mean, expected.covariance, 1e-12)
  np.testing.assert_array_equal(first.covariance, covariance)


def test_features_are_copied(stream):
  accumulator, batch = MomentsAccumulator(), stream[:100].copy()
  accumulator.add(batch)
  batch[:] = 0
  np.testing.assert_array_equal(
    accumulator.moments().mean, Moments.of(stream[:100]).mean
  )


@pytest.mark.parametrize('cuts', [(1, 2), (30, 31), (40, 90)])
def test_moments_merge(rng, cuts):
  features = rng.normal(size=(100, 5)) * 3 + rng.normal(size=5)
  features[:40] += 10  # Means differ between the sets.
  a, b, c = (Moments.of(rows) for rows in np.split(features, cuts))
  expected = Moments.of(features)
  for merged in ((a + b) + c, a + (b + c), (c + a) + b):
    assert merged.count == 100
    assert_same(merged, expected.mean, expected.covariance, 1e-13)


def test_one_row_merges_and_has_no_distance(rng):
  features = rng.normal(size=(30, 3))
  one, rest = Moments.of(features[:1]), Moments.of(features[1:])
  assert one.count == 1
  assert not one.covariance.any()
  with pytest.raises(InputError, match='sample set is a single image'):
    frechet_distance(one, rest)
  with pytest.raises(InputError, match='reference set is a single image'):
    frechet_distance(rest, one)


def test_moments_without_a_count_do_not_merge(rng):
  moments = Moments.of(rng.normal(size=(30, 3)))
  with pytest.raises(InputError, match='without a count'):
    moments + Moments(moments.mean, moments.covariance)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_counted(rng, value):
  features = rng.normal(size=(50, 4))
  features[[3, 9], 1] = value
  features[3, 2] = np.nan
  with pytest.raises(InputError, match='2 of 50 rows'):
    Moments.of(features)


@pytest.mark.parametrize('shape', [(5,), (5, 2, 2), (5, 0)])
def test_features_of_another_shape(shape):
  with pytest.raises(InputError, match='expected \\(images, features\\)'):
    Moments.of(np.zeros(shape))


def test_no_features():
  with pytest.raises(InputError, match='no features'):
    Moments.of(np.zeros((0, 3)))


def test_different_features(rng):
  a, b = Moments.of(rng.normal(size=(9, 4))), Moments.of(np.eye(3))
  for combine in (frechet_distance, Moments.__add__):
    with pytest.raises(InputError, match='4 and 3 features'):
      combine(a, b)
  accumulator = MomentsAccumulator()
  accumulator.add(np.zeros((2, 4)))
  with pytest.raises(InputError, match='4 and 3 features'):
    accumulator.add(np.zeros((2, 3)))


@pytest.fixture
def warnings(caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    yield lambda: [record.getMessage() for record in caplog.records]


def test_few_samples_are_warned_of(rng, warnings):
  few, enough = (Moments.of(rng.normal(size=(n, 6))) for n in (6, 7))
  frechet_distance(enough, enough)
  frechet_distance(Moments(few.mean, few.covariance), enough)
  assert not warnings()
  frechet_distance(few, enough)
  (message,) = warnings()
  assert message.startswith('The sample set has 6 images for 6 features')
  frechet_distance(enough, few)
  assert warnings()[1].startswith('The reference set')


def test_resamples_do_not_warn_again(rng, warnings):
  bootstrap(rng.normal(size=(4, 6)), Moments(np.zeros(6), np.eye(6)), 3)
  assert not warnings()


def test_extrapolation_takes_the_bias_away():
  """Extrapolation removes a bias proportional to 1 / (number of images)."""
  rng = np.random.default_rng(0)
  shift = 0.2 * (rng.normal(size=20) > 0)
  truth = np.square(shift).sum()
  reference = Moments(np.zeros(20), np.eye(20))
  plain, found = [], []
  for _ in range(20):
    sample = rng.normal(size=(300, 20)) + shift
    plain.append(frechet_distance(Moments.of(sample), reference))
    found.append(extrapolated(sample, reference))
  bias, error = np.mean(plain) - truth, np.std(found) / 20**0.5
  assert bias > 0.3
  assert abs(np.mean(found) - truth) < 4 * error + 0.1 * bias


def test_extrapolation_is_the_published_line_through_15_sizes(monkeypatch):
  """The sample sizes and the line fit are those of Chong and Forsyth's code."""
  counts, features = [], np.random.default_rng(0).normal(size=(50_000, 2))

  def distance(moments, reference):
    del reference
    counts.append(moments.count)
    return 3 + 700 / moments.count

  monkeypatch.setattr(frechet, '_distance', distance)
  found = extrapolated(features, Moments(np.zeros(2), np.eye(2)))
  assert counts == np.linspace(5000, 50_000, 15).astype('int32').tolist()
  assert found == pytest.approx(3, rel=1e-9)


def test_extrapolation_uses_all_moments_of_a_large_reference():
  """Moments of only a tenth of the reference would add another bias."""
  rng = np.random.default_rng(0)
  scale, size = 1.2, 40
  truth = size * (scale - 1) ** 2
  reference = Moments.of(rng.normal(size=(20_000, size)))
  found = [
    extrapolated(scale * rng.normal(size=(2000, size)), reference)
    for _ in range(5)
  ]
  assert np.mean(found) == pytest.approx(truth, rel=0.05)
  assert np.std(found) < 0.1 * truth


def test_extrapolation_is_reproducible_and_refuses_few_images():
  features = np.random.default_rng(0).normal(size=(105, 20))
  reference = Moments(np.zeros(20), np.eye(20))
  assert extrapolated(features, reference) == extrapolated(features, reference)
  with pytest.raises(InputError, match=r'104 images of 20 .* at least 105'):
    extrapolated(features[1:], reference)
