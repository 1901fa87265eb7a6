"""Formats the table of a comparison of guidance methods."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from core import markdown
from evaluate.metrics import Estimate, as_dict

COLUMNS = (
  'method', 'scale', 'NFE', 'features', 'pixels', 'accuracy', 'CFG scale',
  'images/s', 'gain (features, pixels)',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table; a row of real images has only a title and scores.

  Attributes:
    method: Guidance string, or title of a row of real images.
    scores: Distances 'features' and 'pixels', and class accuracy 'accuracy'.
    nfe: Network evaluations per image.
    rate: Images per second.
    gains: Decreases of the distances in features and in pixels relative to the
      first row, each divided by the standard error of the difference.
    nonfinite: Number of images with values that are not finite.
    cfg_scale: Effective CFG scale; None if it is undefined.
    matches: Guidance string with the same effective scale, if this row shows
      CFG at that scale; else ''.
  """

  method: str
  scores: Mapping[str, Estimate]
  nfe: float | None = None
  rate: float | None = None
  gains: tuple[float, float] | None = None
  nonfinite: int = 0
  cfg_scale: Estimate | None = None
  matches: str = ''

  def as_dict(self) -> dict[str, Any]:
    """Returns the row as JSON values."""
    accuracy = Estimate(self.scores['accuracy'].value)  # no standard error
    return {
      'method': self.method,
      'nfe': self.nfe,
      'images_per_second': self.rate,
      **as_dict({**self.scores, 'accuracy': accuracy}),
      **as_dict({'cfg_scale': self.cfg_scale} if self.cfg_scale else {}),
      'gain_features': self.gains[0] if self.gains else None,
      'gain_pixels': self.gains[1] if self.gains else None,
      'nonfinite': self.nonfinite,
      **({'matches': self.matches} if self.matches else {}),
    }


def format_table(rows: Sequence[Row]) -> str:
  """Returns the rows as a Markdown table."""
  lines = []
  for row in rows:
    name, scale = split_names(row.method) if row.gains else (row.method, '')
    if row.matches:
      name = f'{name} at the scale of {row.matches}'
    if row.nonfinite:
      name = f'{name} ({row.nonfinite} images not finite)'
    gain = ''
    if row.gains and row is not rows[0]:
      gain = ', '.join(f'{value:+.1f}' for value in row.gains) + ' se'
    features, pixels, accuracy = (
      row.scores[name] for name in ('features', 'pixels', 'accuracy')
    )
    cells = [
      name,
      scale,
      '' if row.nfe is None else f'{row.nfe:.4g}',
      f'{features.value:.2f} ± {features.error:.2f}',
      f'{pixels.value:.3f} ± {pixels.error:.3f}',
      f'{accuracy.value:.1%}',
      f'{row.cfg_scale.value:.2f}' if row.cfg_scale else '',
      '' if row.rate is None else f'{row.rate:.0f}',
      gain,
    ]
    lines.append(cells)
  return markdown.table(COLUMNS, lines)


def split_names(text: str) -> tuple[str, str]:
  """Splits 'ig:1.5,cfg:1.2' into the names 'IG + CFG' and scales '1.5, 1.2'."""
  if text == 'none':
    return text, ''
  parts = [part.split(':', 1) for part in text.split(',')]
  names = ' + '.join(name.upper() for name, _ in parts)
  return names, ', '.join(scale for _, scale in parts)
