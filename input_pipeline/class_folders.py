"""Finds the classes of images that are stored as CLASS/IMAGE at equal depth.

The class of an image is the folder that contains the image. If a layout would
merge several folders into one class, the error message suggests a command.
"""

import collections
import os
import re
import shlex
import unicodedata
from collections.abc import Sequence

from absl import logging

from core.errors import InputError, shorten
from input_pipeline.listing import SUFFIXES, Listing

_SPLITS = frozenset(
  ('train', 'training', 'val', 'valid', 'validation', 'test', 'testing',
   'dev', 'eval', 'holdout', 'heldout')
)  # fmt: skip


def class_folders(listing: Listing) -> dict[str, str]:
  """Returns the class name of each class folder.

  An empty folder next to class folders becomes a class and causes a warning.

  Raises:
    InputError: if there are no images, images without a class folder, or
      folders that are not classes.
  """
  source, images = listing.place, listing.images
  if not images:
    raise InputError(
      f'{source} holds no image; expected images as CLASS/IMAGE, with one of '
      f'the suffixes {", ".join(SUFFIXES)}.'
    )
  parents = sorted({_parent(name) for name in images})
  _check_splits(listing, parents)
  if '' in parents:
    stray = next(name for name in images if not _parent(name))
    raise InputError(
      f'{source} holds {stray} outside of any class folder; expected images as '
      f'CLASS/IMAGE, with one of the suffixes {", ".join(SUFFIXES)}.'
    )
  _check_depth(listing, parents)
  _check_names(listing, parents)
  roots = {_parent(folder) for folder in parents}
  if len(roots) > 1:
    logging.warning(
      '%s: the classes %s lie in several folders (%s); if these folders are '
      'the classes, or the splits of a set, give other folders.',
      source, shorten(sorted(map(_name, parents))), shorten(sorted(roots)),
    )  # fmt: skip
  extras = sorted(
    {name for name in listing.folders if _parent(name) in roots} - {*parents}
  )
  if extras:
    logging.warning(
      '%s: no image in the folders %s; each counts as a class and keeps its '
      'label. Delete folders that are not classes.',
      source, shorten(extras),
    )  # fmt: skip
  return {folder: _name(folder) for folder in [*parents, *extras]}


def _parent(name: str) -> str:
  return name.rpartition('/')[0]


def _name(folder: str) -> str:
  """Returns the class name of a folder, with accents composed (NFC)."""
  return unicodedata.normalize('NFC', folder.rpartition('/')[2])


def _split_path(folder: str, base: str) -> list[str]:
  return [part for part in folder[len(base) :].split('/') if part]


def _path_of(listing: Listing, folder: str) -> str:
  """Returns the path of a listed folder, for messages."""
  if os.path.isdir(os.path.expanduser(listing.place)):
    return os.path.join(listing.place, folder)
  return os.path.join('UNPACKED', folder)


def _unpack(listing: Listing) -> str:
  """Returns advice to unpack an archive; '' for the listing of a folder."""
  is_folder = os.path.isdir(os.path.expanduser(listing.place))
  return '' if is_folder else 'unpack it, and '


def _check_splits(listing: Listing, parents: Sequence[str]) -> None:
  """Raises InputError if the top folders are splits, such as train and test."""
  base = os.path.commonpath(parents) if len(parents) > 1 else ''
  rests = [rest for folder in parents if (rest := _split_path(folder, base))]
  tops = sorted({rest[0] for rest in rests})
  splits = [top for top in tops if _is_split(top)]
  is_deep = any(len(rest) > 1 for rest in rests)
  if len(splits) < 2 or not (is_deep or splits == tops):
    return
  if not is_deep:
    raise InputError(
      f'{listing.place} holds the splits {shorten(splits)}, without folders of '
      'classes in them; expected CLASS/IMAGE in each split.'
    )
  training = (name for name in splits if 'train' in name.lower())
  path = os.path.join(base, next(training, splits[0]))
  raise InputError(
    f'{listing.place} holds the splits {shorten(splits)}, whose classes would '
    f'merge; {_unpack(listing)}prepare each by itself: '
    f'--images={shlex.quote(_path_of(listing, path))} '
    f'--split={os.path.basename(path)}'
  )


def _is_split(name: str) -> bool:
  """Returns whether a folder has the name of a split, such as test_set."""
  return re.split('[ _-]', name.lower())[0] in _SPLITS


def _check_depth(listing: Listing, parents: Sequence[str]) -> None:
  """Raises InputError if images are at different depths."""
  depths = [folder.count('/') for folder in parents]
  if len({*depths}) > 1:
    high, low = (parents[depths.index(f(depths))] for f in (min, max))
    raise InputError(
      f'{listing.place} holds images in {high}, and deeper in {low}; expected '
      'all as CLASS/IMAGE: move them to one depth, or give a folder inside.'
    )


def _check_names(listing: Listing, parents: Sequence[str]) -> None:
  """Raises InputError if several folders would become one class."""
  names, depth = {*map(_name, parents)}, parents[0].count('/')
  # An empty folder with the name of a class counts too: in CLASS/images/IMAGE,
  # some of the folders `images` may be empty.
  twins = [
    folder
    for folder in listing.folders
    if _name(folder) in names and folder.count('/') == depth
  ]
  parents = sorted({*parents, *twins})
  counts = collections.Counter(map(_name, parents))
  name, count = counts.most_common(1)[0]
  if count == 1:
    return
  folders = [folder for folder in parents if _name(folder) == name]
  base = os.path.commonpath(folders)
  if len(counts) == 1 and all(len(_split_path(f, base)) == 2 for f in folders):
    root = shlex.quote(os.path.abspath(_path_of(listing, base)))
    raise InputError(
      f'{listing.place} holds images as CLASS/{name}/IMAGE, expected '
      f'CLASS/IMAGE; {_unpack(listing)}link the folders by their classes, then '
      f'give --images=linked: mkdir linked && for folder in {root}/*/; do '
      f'ln -s "$folder"{shlex.quote(name)} "linked/$(basename "$folder")"; done'
    )
  top, two, *_ = folders
  raise InputError(
    f'{listing.place} holds several folders of the name {name} ({top}, {two}), '
    f'which would become one class; {_unpack(listing)}give the folder around '
    'the classes, such as '
    f'--images={shlex.quote(_path_of(listing, _parent(top)))}, or rename them.'
  )
