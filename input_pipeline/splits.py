"""Keeps one list of classes for all splits of a prepared set.

A label is an index into the list of classes, so all splits must share this
list. A later split uses the list of the existing splits.
"""

import pathlib
from collections.abc import Sequence

from core.errors import InputError, shorten
from core.files import read_json
from input_pipeline.records import METADATA, PROTOCOL, Metadata


def classes_of(folder: pathlib.Path) -> tuple[str, ...] | None:
  """Returns the classes of a complete or partial split; None if it is absent.

  Raises:
    InputError: if the file with the list is damaged.
  """
  if (folder / METADATA).exists():
    return Metadata.load(folder).classes
  path = folder / PROTOCOL
  if not path.exists():
    return None
  protocol = read_json(path, f'; delete the folder {folder}')
  if not isinstance(protocol.get('classes'), list):
    raise InputError(
      f'{path} is damaged: it has no list of classes; delete the folder '
      f'{folder}.'
    )
  return tuple(map(str, protocol['classes']))


def classes_for(folder: pathlib.Path, classes: Sequence[str]) -> Sequence[str]:
  """Returns the list of classes for a split that will be written.

  If other splits exist, the result is the list that these splits have.
  Otherwise, the result is `classes`, the list of the images' classes.

  Raises:
    InputError: if the other splits lack one of the classes.
  """
  for sibling in _siblings(folder):
    names = classes_of(sibling)
    if names is None:
      continue
    if extras := sorted({*classes} - {*names}):
      raise InputError(
        f'the images of {folder.name!r} have {_list(classes)}, but '
        f'{sibling} has {_list(names)}, without {shorten(extras)}; labels '
        'follow the names over all splits of a set: remove these images, or '
        f'delete {sibling} and prepare first the split that has all classes.'
      )
    return names
  return classes


def check_same_classes(folder: pathlib.Path, other: pathlib.Path) -> None:
  """Raises InputError if both splits exist and their classes differ."""
  names, others = classes_of(folder), classes_of(other)
  if names is None or others is None or names == others:
    return
  part = folder if len(names) < len(others) else other
  raise InputError(
    f'{folder} has {_list(names)}, but {other} has {_list(others)}: their '
    f'labels do not agree; delete {part} and prepare it again, so that its '
    'labels follow the names of the other.'
  )


def check_other_splits(folder: pathlib.Path) -> None:
  """Raises InputError if another split has different classes."""
  for sibling in _siblings(folder):
    check_same_classes(folder, sibling)


def _siblings(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the other splits, sorted."""
  if not folder.parent.is_dir():
    return []
  return sorted(
    path
    for path in folder.parent.iterdir()
    if path.is_dir() and path.name != folder.name
  )


def _list(classes: Sequence[str]) -> str:
  return f'{len(classes)} classes ({shorten(classes)})'
