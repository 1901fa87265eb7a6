"""The macros of page.html.j2, and the pictures embedded in the page.

The page needs no other files, no network access and no scripts.
"""

import base64
import functools
import importlib.resources
import io
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

_LARGE = 2**20  # size in bytes above which a PNG is embedded as JPEG


@functools.cache
def macros() -> Any:
  """Returns the template's macros, which return HTML with escaped text."""
  environment = jinja2.Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters['data_url'] = data_url
  template = importlib.resources.files(__package__) / 'page.html.j2'
  return environment.from_string(template.read_text('utf-8')).module


def data_url(picture: bytes | np.ndarray | Figure) -> str:
  """Returns a data URL of a PNG, a plot, or a uint8 array (H, W, 1 or 3).

  The PNG is given as bytes. Raises ValueError if the PNG is not complete.
  """
  kind, data = 'png', io.BytesIO()
  if isinstance(picture, Figure):
    kind = 'svg+xml'
    picture.savefig(data, format='svg')
  elif isinstance(picture, np.ndarray):
    image = Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
    image.save(data, 'png', optimize=True)
  else:
    try:
      with Image.open(io.BytesIO(picture)) as image:
        image.load()
        if len(picture) <= _LARGE:
          data.write(picture)
        else:
          kind = 'jpeg'
          image.convert('RGB').save(data, 'jpeg', quality=90)
    except (OSError, SyntaxError) as error:  # raised by PIL
      raise ValueError(f'not a whole PNG: {error}') from error
  encoded = base64.b64encode(data.getvalue()).decode()
  return f'data:image/{kind};base64,{encoded}'
