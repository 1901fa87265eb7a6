"""Reads the labels of images to score; a label is a class index from 0.

Labels are checked when they are read, because a wrong label would silently
change the accuracy.
"""

import re

import numpy as np

from core.errors import InputError

_MOST = 2**31 - 1


def parse_labels(where: str, text: str) -> np.ndarray:
  """Reads labels (n,) int64 from text with one class index per line.

  Args:
    where: Name of the file, for messages.
    text: Contents of the file.

  Raises:
    InputError: A label is not a class index; the message shows the first such
      label.
  """
  words = text.split()
  for number, word in enumerate(words, 1):
    if not re.fullmatch(r'\d{1,10}', word) or int(word) > _MOST:
      raise InputError(
        f'{where}: label {number} is {word[:30]!r}, expected the number of a '
        'class, 0 or more.'
      )
  return np.asarray([int(word) for word in words], np.int64)


def as_labels(where: str, labels: np.ndarray) -> np.ndarray:
  """Checks an array of labels (n,) and returns it as int64.

  Raises:
    InputError: A label is text, a fraction or a negative number.
  """
  hint = (
    'expected the number of a class, 0 or more; write the images without '
    'labels if these are none'
  )
  if labels.dtype.kind not in 'iuf':
    raise InputError(f'{where}: labels are of type {labels.dtype}, {hint}.')
  with np.errstate(invalid='ignore'):
    is_valid = (labels >= 0) & (labels <= _MOST) & (labels % 1 == 0)
  if not is_valid.all():
    index = int(np.argmin(is_valid))
    raise InputError(
      f'{where}: the label of image {index} is {labels[index]}, {hint}.'
    )
  return labels.astype(np.int64)


def check_classes(where: str, labels: np.ndarray, num_classes: int) -> None:
  """Raises InputError if a label is `num_classes` or larger."""
  if (labels >= num_classes).any():
    index = int(np.argmax(labels >= num_classes))
    raise InputError(
      f'{where}: the label of image {index} is {labels[index]}, but the '
      f'classifier reads classes 0 to {num_classes - 1}; give labels of its '
      'data, or leave accuracy out of --metrics.'
    )
