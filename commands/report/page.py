"""One HTML page that needs nothing beside itself: no network, no scripts.

Pictures are part of the file, and the page itself forbids to load any.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

_LARGE = 2**20  # bytes of a PNG that is embedded as it is; above, as JPEG
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto;
  max-width: 1080px; padding: 0 24px 64px; }
nav { position: sticky; top: 0; background: #fff; padding: 10px 0;
  border-bottom: 1px solid #ddd; display: flex; flex-wrap: wrap;
  gap: 4px 18px; }
nav a { color: #1a5fb4; text-decoration: none; }
h1 { margin: 28px 0 4px; font-size: 26px; overflow-wrap: anywhere; }
h2 { margin: 40px 0 10px; font-size: 20px; scroll-margin-top: 110px; }
h3 { margin: 24px 0 6px; font: 600 15px ui-monospace, monospace; }
table { border-collapse: collapse; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 3px 9px 3px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #eee; }
.wide { overflow-x: auto; }
figure { margin: 12px 0; overflow-x: auto; }
figure img { max-width: 100%; height: auto; }
figcaption, .note { color: #666; font-size: 13px; }
.strip { display: flex; flex-wrap: wrap; gap: 6px 18px; }
.strip figure { max-width: 524px; }
details { margin: 6px 0; }
summary { cursor: pointer; }
.changed { font-weight: 600; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
"""


def page(title: str, sections: Sequence[tuple[str, str, str]]) -> str:
  """The whole file.

  Args:
    title: of the page.
    sections: name for links, heading and HTML of each.
  """
  links = ''.join(
    f'<a href="#{name}">{text(heading)}</a>' for name, heading, _ in sections
  )
  body = ''.join(
    f'<section><h2 id="{name}">{text(heading)}</h2>{content}</section>\n'
    for name, heading, content in sections
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta http-equiv="Content-Security-Policy" content="default-src '
    "'none'; img-src data:; style-src 'unsafe-inline'\">\n"
    '<meta name="viewport" content="width=device-width">\n'
    f'<title>{text(title)}</title><style>{_STYLE}</style></head>\n'
    f'<body><h1>{text(title)}</h1><nav>{links}</nav>\n{body}</body></html>\n'
  )


def text(value: Any) -> str:
  """Plain text as HTML."""
  return html.escape(str(value))


def note(value: str) -> str:
  """A small paragraph."""
  return f'<p class="note">{text(value)}</p>'


def facts(values: Mapping[str, Any], changed: Iterable[str] = ()) -> str:
  """A table of two columns, the rows of `changed` in bold."""
  bold = set(changed)
  return _table(
    f'<tr{_class("changed" * (name in bold))}><th>{text(name)}</th>'
    f'<td>{text(value)}</td></tr>'
    for name, value in values.items()
  )


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """A table under a line of names."""
  head = ''.join(f'<th>{text(name)}</th>' for name in columns)
  lines = (''.join(f'<td>{text(cell)}</td>' for cell in row) for row in rows)
  return _table(f'<tr>{line}</tr>' for line in (head, *lines))


def folded(summary: str, content: str) -> str:
  """What a click shows."""
  return f'<details><summary>{text(summary)}</summary>{content}</details>'


def heading(value: str) -> str:
  """Of a part of a section."""
  return f'<h3>{text(value)}</h3>'


def strip(figures: Iterable[str]) -> str:
  """Figures side by side."""
  return f'<div class="strip">{"".join(figures)}</div>'


def figure(picture: bytes | np.ndarray | Figure, caption: str) -> str:
  """A picture within the page.

  Args:
    picture: bytes of a PNG, (H, W, C) uint8 with C 1 or 3, or a plot.
    caption: below it, and read aloud in its place.

  Raises:
    ValueError: for bytes that are no whole PNG.
  """
  kind, data = 'png', io.BytesIO()
  if isinstance(picture, Figure):
    picture.savefig(data, format='svg')
    picture, kind = data.getvalue(), 'svg+xml'
  elif isinstance(picture, np.ndarray):
    image = Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
    image.save(data, 'png', optimize=True)
    picture = data.getvalue()
  else:
    picture, kind = _checked(picture)
  encoded = base64.b64encode(picture).decode()
  return (
    f'<figure><img alt="{text(caption)}" src="data:image/{kind};base64,'
    f'{encoded}"><figcaption>{text(caption)}</figcaption></figure>'
  )


def _checked(png: bytes) -> tuple[bytes, str]:
  """A picture that can be shown, and its kind: a large one as JPEG."""
  data = io.BytesIO()
  try:
    with Image.open(io.BytesIO(png)) as image:
      image.load()
      if len(png) <= _LARGE:
        return png, 'png'
      image.convert('RGB').save(data, 'jpeg', quality=90)
  except (OSError, SyntaxError) as error:  # which PIL raises
    raise ValueError(f'not a whole PNG: {error}') from error
  return data.getvalue(), 'jpeg'


def _table(rows: Iterable[str]) -> str:
  return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _class(name: str) -> str:
  return f' class="{name}"' if name else ''
