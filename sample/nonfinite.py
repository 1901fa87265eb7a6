"""Images with values that are not finite: how many there are, and too many.

NaN and infinity become black pixels. Metrics count those like any other image,
so every command reports their number.
"""

from absl import logging

from core.errors import NonFiniteError

# Share of a set above which metrics say nothing, and are not taken.
MOST = 0.01


def describe(count: int, total: int) -> str:
  """Returns a clause such as '3 of 64 images have values ...'."""
  return (
    f'{count} of {total} images have values that are not finite (NaN or '
    'infinity), which are black pixels'
  )


def warn(count: int, total: int, name: str = '') -> None:
  """Logs a warning if there are such images.

  Args:
    count: Number of images that are not finite.
    total: Number of images.
    name: Name of the images, such as their guidance.
  """
  if count:
    prefix = f'{name}: ' if name else ''
    logging.warning('%s%s.', prefix, describe(count, total))


def too_many(count: int, total: int) -> bool:
  """Returns whether so many images are not finite that metrics say nothing."""
  return count > MOST * total


def check(count: int, done: int, total: int, name: str) -> None:
  """Raises NonFiniteError if so many of `total` images are not finite.

  Args:
    count: Number of images that are not finite.
    done: Number of images so far.
    total: Number of all images.
    name: Name of the images, such as their guidance.
  """
  if too_many(count, total):
    raise NonFiniteError(
      f'{name}: {describe(count, done)}; above {MOST:.0%} metrics mean '
      'nothing, so none is taken.'
    )
