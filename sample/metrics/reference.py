"""Statistics of the real images that samples are measured against, in files.

  ADM           mu, sigma, mu_s, sigma_s, and arr_0, some of the images
  pytorch-fid   mu, sigma                                    (EDM's too)
  ours          mu, sigma, mu_s, sigma_s, pool (the features of every image),
                count, and about: how they were made, as JSON

EDM2 keeps its statistics as a pickle, which is refused: a pickle runs what it
names. The first four names are read by the other evaluators too.
"""

import dataclasses
import io
import json
import zipfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from dit.errors import InputError
from dit.json_files import parse_json
from sample import writer
from sample.metrics.extractor import Extractor
from sample.metrics.frechet import Moments
from sample.metrics.inception import Features
from sample.metrics.measure import Summary

_STATISTICS = {'mu', 'sigma', 'mu_s', 'sigma_s', 'count', 'about'}


@dataclasses.dataclass(frozen=True)
class Reference:
  """Real images, as features.

  Attributes:
    summary: of their features.
    about: how they were made; {} where a file does not say.
    count: how many; None where a file does not say.
    has_images: whether the file holds images too.
  """

  summary: Summary
  about: dict[str, Any]
  count: int | None
  has_images: bool = False


def arrays_of(path: epath.PathLike) -> set[str]:
  """Names of the arrays of an .npz; none of what is no such file."""
  path = epath.Path(path).expanduser()
  return _names(path) if path.suffix == '.npz' and path.is_file() else set()


def is_statistics(path: epath.PathLike) -> bool:
  """Whether a file holds statistics, and not only images."""
  return 'mu' in arrays_of(path)


def load_reference(
  path: epath.PathLike, extractor: Extractor, *, rows: bool = True
) -> Reference:
  """Reads statistics.

  Args:
    path: an .npz of one of the kinds above.
    extractor: that the samples are measured with.
    rows: whether features of the images are read, where there are some.

  Returns:
    The reference. Of ADM's the features of arr_0 are not there yet.

  Raises:
    InputError: if the file is damaged, or of another extractor.
  """
  path = epath.Path(path).expanduser()
  names = _names(path)
  try:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
      wanted = _STATISTICS | ({'pool'} if rows else set())
      found = {name: arrays[name] for name in names & wanted}
      about = dict(parse_json(str(found.pop('about', '{}'))))
      count = int(found['count']) if 'count' in found else None
  except (
    OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error,
  ) as error:  # fmt: skip
    raise InputError(f'reference {path} is damaged ({error}).') from error
  made_with = about.get('identity')
  differ = [
    f'{key} {str(made_with.get(key))[:12]}, not {str(value)[:12]}'
    for key, value in extractor.identity().items()
    if made_with is not None and made_with.get(key) != value
  ]
  if differ:
    raise InputError(
      f'reference {path} is of another extractor ({"; ".join(differ)}): make '
      'it again (main.py reference), or choose the extractor that it is of.'
    )
  spatial = None
  if {'mu_s', 'sigma_s'} <= names:
    spatial = _moments(path, found['mu_s'], found['sigma_s'], count)
  return Reference(
    Summary(
      _moments(path, found['mu'], found.get('sigma'), count),
      spatial,
      Features(found.get('pool')),
    ),
    about,
    count,
    'arr_0' in names,
  )


def save_reference(path: epath.PathLike, reference: Reference) -> None:
  """Writes statistics with all that is known of them."""
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
  writer.write_bytes(path, data.getvalue())


def _names(path: epath.Path) -> set[str]:
  """The arrays of an .npz."""
  try:
    with path.open('rb') as file, zipfile.ZipFile(file) as archive:
      return {name.removesuffix('.npy') for name in archive.namelist()}
  except (OSError, zipfile.BadZipFile) as error:
    raise InputError(f'{path} is damaged, or no .npz ({error}).') from error


def _moments(
  path: epath.Path, mean: Any, covariance: Any, count: int | None
) -> Moments:
  size = np.size(mean)
  if np.shape(mean) != (size,) or np.shape(covariance) != (size, size):
    raise InputError(
      f'reference {path} has a mean of shape {np.shape(mean)} and a covariance '
      f'of {np.shape(covariance)}, expected (F,) and (F, F).'
    )
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise InputError(
      f'reference {path} has statistics that are not finite; make it again.'
    )
  return Moments(
    np.asarray(mean, np.float64), np.asarray(covariance, np.float64), count
  )
