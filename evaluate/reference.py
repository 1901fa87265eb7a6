"""Reads and writes statistics of real images as .npz files.

  ADM           mu, sigma, mu_s, sigma_s, and arr_0 with some of the images
  pytorch-fid   mu, sigma; EDM's files have the same arrays
  ours          mu, sigma, mu_s, sigma_s, pool (features of some or all images),
                count, and about (the protocol as JSON)

Other evaluators can read mu, sigma, mu_s and sigma_s from our files. Pickle
files, such as EDM2's statistics, are rejected: loading a pickle can run code.
"""

import dataclasses
import io
import json
import zipfile
from typing import Any

import numpy as np
from etils import epath

from core.errors import InputError
from core.files import parse_json, write_bytes
from core.npz import damage_of, names_of, read_array
from evaluate.extractor import Extractor
from evaluate.frechet import Moments
from evaluate.inception import Features
from evaluate.metrics import Summary

# Tolerance, relative to the largest entry of a covariance. For a few thousand
# features in float32, eigenvalues can be as low as -1e-5 times that entry.
_ROUNDING = 1e-4
_STATISTICS = {'mu', 'sigma', 'mu_s', 'sigma_s', 'count', 'about'}


@dataclasses.dataclass(frozen=True)
class Reference:
  """Features of real images, and the origin of the images.

  Attributes:
    summary: Summary of the features.
    about: Protocol; {} if the file has no protocol.
    count: Number of images; None if the file does not specify it.
    has_images: Whether the file also holds images.
  """

  summary: Summary
  about: dict[str, Any]
  count: int | None
  has_images: bool = False


def arrays_of(path: epath.PathLike) -> set[str]:
  """Returns the names of an .npz file's arrays; set() for other paths."""
  path = epath.Path(path).expanduser()
  return names_of(path) if path.suffix == '.npz' and path.is_file() else set()


def is_statistics(path: epath.PathLike) -> bool:
  """Returns whether a file holds statistics."""
  return 'mu' in arrays_of(path)


def load_reference(path: epath.PathLike, *, rows: bool = True) -> Reference:
  """Reads and validates the statistics in an .npz file.

  The array `pool` is read only if `rows` is true. Raises InputError if the file
  is damaged, or the array sigma is not a covariance.
  """
  path = epath.Path(path).expanduser()
  names, label = names_of(path), f'reference {path}'
  subset = _STATISTICS | ({'pool'} if rows else set())
  with (
    damage_of(label),
    path.open('rb') as file,
    zipfile.ZipFile(file) as archive,
  ):
    data = {name: read_array(label, archive, name) for name in names & subset}
    origin = dict(parse_json(str(data.pop('about', '{}'))))
    count = int(data['count']) if 'count' in data else None
  if count is not None and count < 1:
    raise InputError(f'{label} counts {count} images, expected at least 1.')
  spatial = None
  if {'mu_s', 'sigma_s'} <= names:
    spatial = _moments(path, data['mu_s'], data['sigma_s'], count)
  pool = _moments(path, data.get('mu', ()), data.get('sigma'), count)
  features = data.get('pool')
  if features is not None and (
    features.ndim != 2
    or features.shape[1] != len(pool.mean)
    or features.dtype.kind != 'f'
    or not np.isfinite(features).all()
  ):
    raise InputError(
      f'{label} has features (pool) of shape {features.shape} and type '
      f'{features.dtype}, expected (images, {len(pool.mean)}) finite numbers; '
      'make it again.'
    )
  return Reference(
    Summary(pool, spatial, Features(features)), origin, count, 'arr_0' in names
  )


def check_extractor(
  path: epath.PathLike, reference: Reference, extractor: Extractor
) -> None:
  """Raises InputError if a reference belongs to another extractor."""
  identity = reference.about.get('identity')
  pairs = [
    f'{key} {str(identity.get(key))[:12]}, not {str(value)[:12]}'
    for key, value in extractor.identity().items()
    if identity is not None and identity.get(key) != value
  ]
  if pairs:
    raise InputError(
      f'reference {path} belongs to another extractor ({"; ".join(pairs)}): '
      'make it again (main.py reference), or choose the matching extractor.'
    )


def save_reference(path: epath.PathLike, reference: Reference) -> None:
  """Writes a reference as an .npz in this project's format."""
  summary, data = reference.summary, io.BytesIO()
  arrays: dict[str, Any] = {
    'mu': summary.pool.mean,
    'sigma': summary.pool.covariance,
  }
  if summary.spatial is not None:
    arrays['mu_s'] = summary.spatial.mean
    arrays['sigma_s'] = summary.spatial.covariance
  if summary.rows.pool is not None:
    arrays['pool'] = summary.rows.pool
  if reference.count is not None:
    arrays['count'] = np.int64(reference.count)
  np.savez(data, **arrays, about=np.array(json.dumps(reference.about)))
  write_bytes(path, data.getvalue())


def _moments(
  path: epath.Path, mean: Any, covariance: Any, count: int | None
) -> Moments:
  size = np.size(mean)
  if np.shape(mean) != (size,) or np.shape(covariance) != (size, size):
    raise InputError(
      f'reference {path} has a mean of shape {np.shape(mean)} and a covariance '
      f'of {np.shape(covariance)}, expected (F,) and (F, F).'
    )
  for name, array in (('mean', mean), ('covariance', covariance)):
    if np.asarray(array).dtype.kind not in 'fiu':
      raise InputError(
        f'reference {path} has a {name} of type {np.asarray(array).dtype}, '
        'expected numbers; make it again.'
      )
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise InputError(
      f'reference {path} has statistics that are not finite; make it again.'
    )
  _check_covariance(path, np.asarray(covariance, np.float64))
  return Moments(
    np.asarray(mean, np.float64), np.asarray(covariance, np.float64), count
  )


def _check_covariance(path: epath.Path, covariance: np.ndarray) -> None:
  """Raises InputError if sigma is asymmetric or has a negative eigenvalue."""
  scale = float(np.abs(covariance).max(initial=0))
  tolerance = _ROUNDING * (scale or 1.0)
  asymmetry = float(np.abs(covariance - covariance.T).max(initial=0))
  problem = ''
  if asymmetry > tolerance:
    problem = f'is not symmetric (by {asymmetry:.3g})'
  else:
    # `cholesky` fails for eigenvalues < -tolerance, and `eigvalsh` is slower.
    try:
      np.linalg.cholesky(covariance + tolerance * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
      minimum = float(np.linalg.eigvalsh(covariance).min())
      problem = f'has a negative eigenvalue ({minimum:.3g})'
  if problem:
    raise InputError(
      f'reference {path} has a sigma that is not a covariance: it {problem}; '
      'make the statistics again.'
    )
