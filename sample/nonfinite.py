"""Warnings and errors about images with values that are not finite.

NaN and infinity become black pixels. Metrics include these images, so every
command reports their number.
"""

from absl import logging

from core.errors import NonFiniteError

# Largest fraction of nonfinite images for which metrics are computed.
MOST = 0.01


def describe(count: int, total: int) -> str:
  """Returns a clause such as '3 of 64 images have values ...'."""
  return (
    f'{count} of {total} images have values that are not finite (NaN or '
    'infinity), which are black pixels'
  )


def warn(count: int, total: int, name: str = '') -> None:
  """Logs a warning if `count` is positive; `name` describes the images."""
  if count:
    prefix = f'{name}: ' if name else ''
    logging.warning('%s%s.', prefix, describe(count, total))


def too_many(count: int, total: int) -> bool:
  """Returns whether `count` nonfinite images make metrics meaningless."""
  return count > MOST * total


def check(count: int, done: int, total: int, name: str) -> None:
  """Raises NonFiniteError if `too_many` images are not finite.

  Args:
    count: Number of images that are not finite.
    done: Number of images so far.
    total: Number of all images.
    name: Name of the images, such as their guidance.
  """
  if too_many(count, total):
    raise NonFiniteError(
      f'{name}: {describe(count, done)}; above {MOST:.0%} metrics are '
      'meaningless, so none is computed.'
    )
