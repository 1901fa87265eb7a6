"""Checks of the arguments of `sample.pipeline`, and errors in its terms."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from core.errors import InputError, nearest
from sample.generate import SampleConfig
from sample.labels import find_classes

Labels = int | str | Sequence[int | str] | np.ndarray
# Arguments of other libraries, and what replaces them here.
_ELSEWHERE = {
  'guidance_scale': "guidance='cfg:SCALE'",
  'cfg_scale': "guidance='cfg:SCALE'",
  'num_inference_steps': 'steps',
  'num_steps': 'steps',
  'generator': 'seed',
  'class_labels': 'labels',
  'output_type': "output, which is 'images' or 'latents'",
  'latents': "noise, or output='latents'",
  'callback_on_step_end': 'callback',
  'num_images_per_prompt': 'labels with one entry for each image',
}


_FIELDS = '|'.join(field.name for field in dataclasses.fields(SampleConfig))


@contextlib.contextmanager
def library_terms() -> Iterator[None]:
  """Rewords errors: config keys and flags become arguments of functions.

  Commands, from `python main.py` to the end of the text, stay as they are.
  """
  try:
    yield
  except InputError as error:
    text, *rest = re.split(r'(?=python main\.py)', str(error), maxsplit=1)
    text = re.sub(rf'\bsample\.({_FIELDS})\b', r'\1', text)
    text = re.sub(r'--(autoencoder|guidance|step|weights)\b', r'\1', text)
    raise InputError(''.join([text, *rest])) from None


def check_labels(
  labels: Labels, count: int, names: Sequence[str]
) -> np.ndarray:
  """Returns classes (n,) int32; raises InputError if there are others.

  Args:
    labels: Classes by number or name, text such as 'bird,3', or one number.
    count: Number of classes.
    names: Names of the classes; () if unknown.
  """
  value = labels

  def number(word: int | str) -> int:
    if not isinstance(word, str):
      return word
    match = find_classes(word, count, names)
    if len(match) > 1:
      raise InputError(f'label {word!r} names {len(match)} classes, not one.')
    return match[0]

  if isinstance(labels, np.ndarray) and labels.dtype.kind == 'U':
    labels = labels.tolist()
  if isinstance(labels, str):
    labels = find_classes(labels, count, names)
  elif isinstance(labels, list | tuple | range):
    labels = list(map(number, labels))
  try:
    array = np.asarray(labels)
  except ValueError:  # rows of different lengths
    array = np.zeros(0)
  if not array.ndim:
    array = array[None]
  if (
    array.ndim != 1
    or not array.size
    or array.dtype.kind not in 'iu'
    or array.min() < 0
    or array.max() >= count
  ):
    raise InputError(
      f'labels are {value}, expected a list of classes between 0 and '
      f'{count - 1}, one for each image.'
    )
  return array.astype(np.int32)


def check_states(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Returns states of `shape` as float32.

  Raises InputError if `values`, the argument `name`, has another shape, or a
  type other than floating point.
  """
  values = np.asarray(values)
  if values.shape != shape or values.dtype.kind != 'f':
    raise InputError(
      f'{name} has shape {values.shape} and type {values.dtype}, expected '
      f'shape {shape} and floating point.'
    )
  return values.astype(np.float32)


def with_changes(
  config: SampleConfig, changes: Mapping[str, Any]
) -> SampleConfig:
  """Returns settings with changed fields; raises InputError for others."""
  names = [field.name for field in dataclasses.fields(SampleConfig)]
  for name in changes:
    if name in _ELSEWHERE:
      raise InputError(f'unknown argument {name!r}; use {_ELSEWHERE[name]}.')
    if name not in names:
      raise InputError(
        f'unknown setting {name!r}; there are {", ".join(names)}.'
        + nearest(name, names)
      )
  return dataclasses.replace(config, **changes)
