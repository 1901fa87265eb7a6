"""The Frechet distance against closed forms."""

import numpy as np
import pytest
import scipy.linalg

from sample.metrics.frechet import Moments, bootstrap, frechet_distance


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def random_covariance(rng, size, rank=None):
  root = rng.normal(size=(size, rank or size))
  return root @ root.T / size


@pytest.mark.parametrize('count', [1000, 6])
def test_identical_sets_are_at_zero(rng, count):
  # Also six rows of ten features, whose covariance is singular.
  moments = Moments.of(rng.normal(size=(count, 10)) * 3 + 1)
  assert abs(frechet_distance(moments, moments)) < 1e-5


def test_moments(rng):
  features = rng.normal(size=(7, 3)).astype(np.float32)
  moments = Moments.of(features)
  assert moments.mean.dtype == moments.covariance.dtype == np.float64
  centred = features - features.astype(np.float64).mean(0)
  np.testing.assert_allclose(moments.covariance, centred.T @ centred / 6)


def test_one_feature():
  a, b = Moments.of(np.asarray([[0.0], [2.0]])), Moments.of([[4.0], [5.0]])
  # Means 1 and 4.5, standard deviations sqrt(2) and sqrt(0.5).
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


def test_singular_covariances(rng):
  # N(0, diag(4, 1, 0)) and N(0, diag(1, 0, 0)), turned.
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
  # Wasserstein-2 between N(0, I) and N(1, R R^T).
  values = np.linalg.svd(root, compute_uv=False)
  expected = 4 + np.square(values - 1).sum()
  assert ours == pytest.approx(expected, rel=0.02)


def test_order_does_not_matter(rng):
  a, b = rng.normal(size=(50, 6)), rng.normal(size=(40, 6)) * 2
  expected = frechet_distance(Moments.of(a), Moments.of(b))
  shuffled = frechet_distance(Moments.of(rng.permutation(a)), Moments.of(b))
  assert shuffled == pytest.approx(expected)
  columns = rng.permutation(6)
  turned = frechet_distance(
    Moments.of(a[:, columns]), Moments.of(b[:, columns])
  )
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
  # Row by row nearly the first: the difference is known better than either.
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
