"""The macros of page.html.j2, and the pictures embedded in the page.

The page needs no other files, no network access and no scripts.
"""

import base64
import functools
import importlib.resources
import io
import re
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

_LARGE = 2**20  # size in bytes above which a PNG is embedded as JPEG
_NUMBER = re.compile(r'[-+]?\d[\d.,]*(e[-+]?\d+)?%?( ± .*|, .*| se)?')


@functools.cache
def load_macros(package: str, name: str) -> Any:
  """Returns the macros of a template, which return HTML with escaped text."""
  environment = jinja2.Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters['data_url'] = data_url
  environment.filters['numeric_columns'] = numeric_columns
  template = importlib.resources.files(package) / name
  return environment.from_string(template.read_text('utf-8')).module


def macros() -> Any:
  """Returns the macros of the report."""
  return load_macros(__package__, 'page.html.j2')


def numeric_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
  """Returns, for each column, whether all cells that have text are numbers."""
  return [
    all(_NUMBER.fullmatch(cell) for cell in column if cell)
    for column in zip(*rows, strict=True)
  ]


def data_url(picture: bytes | np.ndarray | Figure) -> str:
  """Returns a data URL of a picture.

  A picture is a plot, an array (H, W, 1 or 3) uint8, or the bytes of a PNG or a
  WebP animation. Raises ValueError if the bytes are not complete.
  """
  if isinstance(picture, Figure):
    data = io.BytesIO()
    picture.savefig(data, format='svg', transparent=True)
    return _encode('svg+xml', data.getvalue())
  if isinstance(picture, np.ndarray):
    data = io.BytesIO()
    image = Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
    image.save(data, 'png', optimize=True)
    picture = data.getvalue()
  try:
    with Image.open(io.BytesIO(picture)) as image:
      image.load()
      if image.format == 'WEBP':
        return _encode('webp', picture)
      if len(picture) <= _LARGE:
        return _encode('png', picture)
      data = io.BytesIO()
      image.convert('RGB').save(data, 'jpeg', quality=90)
      return _encode('jpeg', data.getvalue())
  except (OSError, SyntaxError) as error:  # raised by PIL
    raise ValueError(f'not a whole picture: {error}') from error


def _encode(kind: str, data: bytes) -> str:
  return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
