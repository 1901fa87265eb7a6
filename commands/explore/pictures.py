"""HTML of the images, the trajectory and the messages of the page."""

from typing import Any

import numpy as np

from commands.explore.explorer import Picture
from commands.report.page import load_macros
from sample.pictures import change_from, enlarge
from sample.trajectory import Film

_SIDE = 180  # smallest height of an image, in pixels
_FRAME = 90  # smallest height of a frame
_AMPLIFIED = 2  # factor of the change
_ROWS = {
  'state': 'state',
  'strong': 'unguided estimate',
  'guided': 'guided estimate',
}


def _macros() -> Any:
  return load_macros(__package__, 'pictures.html.j2')


def cards(picture: Picture, names: list[str]) -> str:
  """Returns one card per image: its name, guided, unguided, and the change."""
  images, base = picture.images, picture.base
  change = change_from(images, base, _AMPLIFIED)
  enlarged = images.shape[1] < _SIDE
  parts = [enlarge(part, _SIDE) for part in (images, base, change)]
  return _macros().cards(names, *parts, _AMPLIFIED, enlarged)


def facts(picture: Picture) -> str:
  """Returns a line with the cost of the images."""
  return _macros().facts(picture.nfe, len(picture.images), picture.seconds)


def title(place: str) -> str:
  """Returns the heading of the page."""
  return _macros().title(place)


def note(text: str) -> str:
  """Returns a line of text."""
  return _macros().note(text)


def problem(text: str) -> str:
  """Returns a message about an invalid setting."""
  return _macros().problem(text)


def film(record: Film, name: str, guidance: str) -> str:
  """Returns the trajectory of the first image as a table."""
  rows = [
    (label, enlarge(np.asarray(record.images[key])[:, 0], _FRAME))
    for key, label in _ROWS.items()
  ]
  return _macros().film(name, guidance, record.times, rows)
