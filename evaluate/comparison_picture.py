"""Draws guidance methods side by side: samples, changes and distances.

Every method has a row of images, which all start from the same noise, and below
it their change from the first method (gray means no change). A chart on the
right has the distance of each row, with standard errors. The images are the
first of each class, for up to ten classes.
"""

import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from core import charts, npz
from core.files import write_bytes
from evaluate.metrics import Estimate
from guidance import parse
from sample import pictures

COLUMNS = 10  # largest number of classes
AMPLIFIED = 2  # factor of the changes
_SIDE = 84  # smallest side of an image in pixels
_GAP = 4  # space between images in pixels
_TEXT = 360  # width of the text on the left in pixels
_CHART = 400  # width of the chart on the right in pixels
_TOP, _BOTTOM = 84, 64  # space above and below the images in pixels
_DPI = 100
_LINE = 34  # characters per line of text


@dataclasses.dataclass(frozen=True)
class Strip:
  """The images of one method, or real images.

  Attributes:
    title: Title of the row.
    text: Further text.
    images: Images (n, H, W, C) uint8, one for each class shown.
    distance: Frechet distance; None if it is unknown.
    is_real: Whether the images are real; real images have no change.
  """

  title: str
  text: str
  images: np.ndarray
  distance: Estimate | None
  is_real: bool = False


def shown_classes(num_classes: int) -> np.ndarray:
  """Returns the classes of the picture, evenly spaced, (n,) int."""
  count = min(num_classes, COLUMNS)
  return np.linspace(0, num_classes - 1, count).round().astype(int)


def first_of_each(
  images: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Returns the first image of each class shown, (n, H, W, C).

  A class without an image is blank.
  """
  result = []
  for label in shown_classes(num_classes):
    index = np.flatnonzero(labels == label)
    blank = np.full_like(images[0], 255)
    result.append(images[index[0]] if len(index) else blank)
  return np.stack(result)


def titles_of(text: str) -> tuple[str, str]:
  """Returns a title for guidance, and a sentence that says what it does."""
  guidance = parse(text)
  terms = [t for t in (guidance.internal, *guidance.terms) if t is not None]
  if not terms:
    return 'No guidance', 'The network on its own.'
  away = ' and from '.join(term.weak_title for term in terms)
  names = [term.name.upper() for term in terms]
  title = terms[0].title if len(terms) == 1 else ' + '.join(names)
  return title, f'Steers away from {away}.'


def method_strip(
  text: str, nfe: float, images: np.ndarray, distance: Estimate
) -> Strip:
  """Returns the strip of a method, given as text, for its images."""
  title, sentence = titles_of(text)
  name = '' if text == 'none' else f'{text}, '
  return Strip(title, f'{name}NFE {nfe:.3g}\n{sentence}', images, distance)


def write_strips(
  path: epath.Path, strips: Sequence[Strip], classes: Sequence[str]
) -> None:
  """Writes strips, without distances, and the names of their columns."""
  data = io.BytesIO()
  np.savez_compressed(
    data,
    titles=[strip.title for strip in strips],
    texts=[strip.text for strip in strips],
    is_real=[strip.is_real for strip in strips],
    images=np.stack([strip.images for strip in strips]),
    classes=np.asarray(classes, str),
  )
  write_bytes(path, data.getvalue())


def read_strips(path: epath.Path) -> tuple[list[Strip], list[str]]:
  """Reads what `write_strips` wrote.

  Raises InputError if the file is damaged.
  """
  data = io.BytesIO(path.read_bytes())
  with npz.damage_of(path), np.load(data) as file:
    columns = (file[k] for k in ('titles', 'texts', 'images', 'is_real'))
    strips = [
      Strip(str(title), str(text), images, None, bool(is_real))
      for title, text, images, is_real in zip(*columns, strict=True)
    ]
    return strips, file['classes'].tolist()


def changes(strips: Sequence[Strip]) -> Mapping[int, np.ndarray]:
  """Returns the changes of images from the first method, by row."""
  samples = [k for k, strip in enumerate(strips) if not strip.is_real]
  return {
    k: pictures.change_from(
      strips[k].images, strips[samples[0]].images, AMPLIFIED
    )
    for k in samples[1:]
  }


def draw_comparison(
  strips: Sequence[Strip], classes: Sequence[str], metric: str
) -> Figure:
  """Returns the picture.

  Args:
    strips: Rows from top to bottom.
    classes: Name of each column.
    metric: Name of the distance.
  """
  differences = changes(strips)
  rows: list[tuple[int, np.ndarray]] = []
  for k, strip in enumerate(strips):
    rows.append((k, strip.images))
    if k in differences:
      rows.append((k, differences[k]))
  grids = [
    pictures.tile(pictures.enlarge(images, _SIDE), len(classes), gap=_GAP // 2)
    for _, images in rows
  ]
  grids = [np.broadcast_to(g, (*g.shape[:2], 3)) for g in grids]
  height, width = grids[0].shape[:2]
  size = _TEXT + width + _CHART, _TOP + height * len(rows) + _BOTTOM
  figure = Figure((size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
  figure.figimage(np.concatenate(grids), _TEXT, _BOTTOM, origin='upper')

  def write(x: float, y: float, text: str, points: float, **style: Any) -> None:
    figure.text(x / size[0], 1 - y / size[1], text, fontsize=points, **style)

  for k, name in enumerate(classes):
    x = _TEXT + (k + 0.5) * width / len(classes)
    write(x, _TOP - 8, textwrap.fill(name, 9), 11, ha='center', va='bottom')
  centers = {}
  for number, (k, _) in enumerate(rows):
    y = _TOP + number * height
    if k in centers:
      write(
        _TEXT - 12, y + height - 6, f'change x {AMPLIFIED}', 12,
        ha='right', va='bottom', color='0.35',
      )  # fmt: skip
      continue
    centers[k] = y + height / 2
    write(12, y + 6, strips[k].title, 15, va='top', weight='bold')
    lines = strips[k].text.splitlines()
    text = '\n'.join(textwrap.fill(line, _LINE) for line in lines)
    room = 4 if k in differences else 2  # number of lines beside the images
    if text.count('\n') >= room:
      text = textwrap.fill(lines[0], _LINE)
    write(12, y + 32, text, 12.5, va='top', linespacing=1.3)
  _draw_chart(figure, strips, centers, metric)
  return figure


def _draw_chart(
  figure: Figure,
  strips: Sequence[Strip],
  centers: Mapping[int, float],
  metric: str,
) -> None:
  """Draws the distances, each at the height of its row of images."""
  width, height = (round(side * _DPI) for side in figure.get_size_inches())
  left, margin = width - _CHART + 40, 56
  axes = figure.add_axes(
    (
      left / width, _BOTTOM / height,
      (_CHART - 40 - margin) / width, (height - _TOP - _BOTTOM) / height,
    )
  )  # fmt: skip
  axes.set_ylim(height - _BOTTOM, _TOP)
  axes.set_yticks([])
  for k, strip in enumerate(strips):
    if strip.distance is None:
      continue
    value, error = strip.distance.value, strip.distance.error or 0
    color = charts.COLORS[2 if strip.is_real else 0]
    axes.errorbar(
      value, centers[k], xerr=error, marker='o', color=color, capsize=4
    )
    text = f'{value:.2f}' + (f' ± {error:.2f}' if error else '')
    axes.annotate(
      text, (value, centers[k]), (0, 10), textcoords='offset points',
      ha='center', fontsize=12.5, annotation_clip=False,
      bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1},
    )  # fmt: skip
  first = next((s for s in strips if s.distance and not s.is_real), None)
  if first is not None and first.distance is not None:
    axes.axvline(first.distance.value, color='0.6', linestyle=':', zorder=0)
  right = axes.get_xlim()[1]
  axes.set_xlim(-0.2 * right, 1.2 * right)  # room for the text
  axes.spines[['left', 'right', 'top']].set_visible(False)
  axes.tick_params(labelsize=12)
  axes.grid(axis='x', alpha=0.25)
  axes.set_title(f'{metric}\n(lower is better)', fontsize=13)


def draw_distances(rows: Sequence[Mapping[str, Any]]) -> Figure:
  """Returns a chart of distances in features for the rows of compare.json."""
  figure, (axes,) = charts.make_chart(1, size=(7, 1.5 + 0.5 * len(rows)))
  for k, row in enumerate(rows):
    is_real = row['nfe'] is None
    value, error = row['features'], row.get('features_se') or 0
    axes.errorbar(
      value, k, xerr=error, marker='o', capsize=4,
      color=charts.COLORS[2 if is_real else 0],
    )  # fmt: skip
  axes.invert_yaxis()
  axes.set_xlim(left=0)
  title = 'Frechet distance in features (lower is better)'
  charts.label_panel(axes, title, '')
  axes.set_yticks(range(len(rows)), [str(row['method']) for row in rows])
  return figure
