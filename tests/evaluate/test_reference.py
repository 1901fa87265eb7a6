import numpy as np
import pytest

from core.errors import InputError
from evaluate.extractor import user_extractor
from evaluate.inception import Features
from evaluate.metrics import Gatherer, MeasureConfig
from evaluate.reference import (
  Reference,
  check_extractor,
  is_statistics,
  load_reference,
  save_reference,
)


def toy_extractor(code='a', file='here'):
  about = {'code_sha256': code, 'file': file}
  return user_extractor('toy', lambda x: x, about)


def reference_of(spatial=True):
  rng = np.random.default_rng(0)
  pool = rng.normal(size=(30, 4)).astype(np.float32)
  rows = Features(pool, pool[:, :2] if spatial else None)
  gatherer = Gatherer(MeasureConfig(), ('fd', 'sfd', 'precision'))
  gatherer.add(rows)
  about = {'images': 'toys', 'identity': toy_extractor().identity()}
  return Reference(gatherer.summary(), about, 30)


def test_round_trip(tmp_path):
  path, reference = tmp_path / 'toy.npz', reference_of()
  save_reference(path, reference)
  assert is_statistics(path)
  found = load_reference(path)
  assert found.about == reference.about
  assert found.count == 30
  assert found.summary.pool.count == 30
  for name in ('pool', 'spatial'):
    ours, theirs = (getattr(r.summary, name) for r in (found, reference))
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(ours.covariance, theirs.covariance)
  np.testing.assert_array_equal(
    found.summary.rows.pool, reference.summary.rows.pool
  )


def test_other_evaluators_read_ours(tmp_path):
  save_reference(tmp_path / 'toy.npz', reference_of())
  with np.load(tmp_path / 'toy.npz') as arrays:  # No pickle is needed.
    assert arrays['mu'].shape == (4,)
    assert arrays['sigma'].shape == (4, 4)
    assert arrays['mu_s'].shape == (2,)


def test_adm_and_pytorch_fid_layouts(tmp_path):
  """ADM and pytorch-fid files load, although count and settings are missing."""
  mu, sigma = np.arange(4.0), np.eye(4)
  np.savez(tmp_path / 'fid.npz', mu=mu, sigma=sigma)
  np.savez(
    tmp_path / 'adm.npz',
    mu=mu, sigma=sigma, mu_s=mu[:2], sigma_s=sigma[:2, :2],
    arr_0=np.zeros((3, 8, 8, 3), np.uint8),
  )  # fmt: skip
  plain, adm = (
    load_reference(tmp_path / f'{name}.npz') for name in ('fid', 'adm')
  )
  assert plain.summary.spatial is None and not plain.has_images
  assert adm.summary.spatial.mean.shape == (2,) and adm.has_images
  for found in (plain, adm):
    assert found.count is None and found.about == {}
    assert found.summary.rows.pool is None
    np.testing.assert_array_equal(found.summary.pool.mean, mu)


def test_images_alone_are_no_statistics(tmp_path):
  np.savez(tmp_path / 'images.npz', np.zeros((2, 8, 8, 3), np.uint8))
  assert not is_statistics(tmp_path / 'images.npz')
  assert not is_statistics(tmp_path)


def test_another_extractor(tmp_path):
  save_reference(tmp_path / 'toy.npz', reference_of())
  reference = load_reference(tmp_path / 'toy.npz')
  with pytest.raises(InputError, match='code_sha256 a, not b'):
    check_extractor('toy.npz', reference, toy_extractor(code='b'))
  check_extractor('toy.npz', reference, toy_extractor(file='there'))


@pytest.mark.parametrize(('arrays', 'words'), [
  ({'mu': np.zeros(3)}, r'covariance of \(\)'),
  ({'mu': np.zeros(3), 'sigma': np.eye(4)}, 'expected'),
  ({'mu': np.zeros(3), 'sigma': np.nan * np.eye(3)}, 'not finite'),
  ({'mu': np.zeros((3, 1)), 'sigma': np.eye(3)}, 'expected'),
  ({'mu': np.zeros(3), 'sigma': -np.eye(3)}, 'eigenvalue .-1'),
  ({'mu': np.zeros(3), 'sigma': -1e-6 * np.eye(3)}, 'negative eigenvalue'),
  ({'mu': np.zeros(2), 'sigma': np.asarray([[1, 2], [2, 1]])}, 'eigenvalue'),
  ({'mu': np.zeros(2), 'sigma': np.triu(np.ones((2, 2)))}, 'not symmetric'),
  ({'mu': np.zeros(2), 'sigma': np.full((2, 2), 'x')}, 'expected numbers'),
  ({'mu': np.zeros(2), 'sigma': np.eye(2), 'count': -5}, 'counts -5 images'),
  ({'mu': np.zeros(2), 'sigma': np.eye(2), 'pool': np.zeros((4, 3))},
   'features .pool.'),
  ({'mu': np.zeros(2), 'sigma': np.eye(2), 'mu_s': np.zeros(2),
    'sigma_s': -np.eye(2)}, 'not a covariance'),
])  # fmt: skip
def test_wrong_arrays(tmp_path, arrays, words):
  np.savez(tmp_path / 'bad.npz', **arrays)
  with pytest.raises(InputError, match=words):
    load_reference(tmp_path / 'bad.npz')


def test_pickles_and_damage(tmp_path):
  path = tmp_path / 'bad.npz'
  save_reference(path, reference_of())
  path.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(InputError, match='damaged'):
    load_reference(path)
  for wrong in (
    {'mu': np.array([{}], object)}, {'about': '{"images":'}, {'about': '[1]'},
    {'count': np.ones(3)},
  ):  # fmt: skip
    np.savez(path, **{'mu': np.zeros(1), 'sigma': np.eye(1)} | wrong)
    with pytest.raises(InputError, match='damaged'):
      load_reference(path)


def test_rounding_makes_no_covariance_wrong(tmp_path):
  """A singular covariance with float32 rounding errors is valid."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(50, 400)).astype(np.float32)
  for sigma in (np.cov(x, rowvar=False), np.float32(np.cov(x, rowvar=False))):
    np.savez(tmp_path / 'few.npz', mu=x.mean(0), sigma=sigma)
    assert load_reference(tmp_path / 'few.npz').count is None
  np.savez(tmp_path / 'one.npz', mu=np.zeros(3), sigma=np.zeros((3, 3)))
  load_reference(tmp_path / 'one.npz')
