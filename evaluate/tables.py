"""Formats metrics as tables and lists caveats about them."""

from collections.abc import Mapping
from typing import Any

from core import markdown
from evaluate.extractor import Extractor
from evaluate.metrics import Estimate, name_of
from evaluate.resize import USUAL

# Number of images below which the bias of Frechet distances causes a caveat.
_ENOUGH = 10_000
_PERCENT = ('accuracy',)


def caveats(
  *,
  extractor: Extractor,
  count: int,
  labels: str | None,
  eight_bit: bool,
  reference: Mapping[str, Any],
  row: Mapping[str, Any],
  bad: int = 0,
) -> list[str]:
  """Returns sentences that explain why metrics may not be comparable.

  Args:
    extractor: Extractor of the features.
    count: Number of images per set.
    labels: Plan of the images' labels, such as 'balanced'; None if unknown.
    eight_bit: Whether the images are stored as uint8.
    reference: Description of the real images.
    row: Labels and count of the published row to compare with, or {}.
    bad: Number of samples with non-finite values.
  """
  notes = []
  if bad:
    notes.append(
      f'{bad} of the images had values that are not finite (NaN or infinity), '
      'which are black pixels here: metrics include these images.'
    )
  if count < _ENOUGH:
    notes.append(
      f'{count} images are fewer than {_ENOUGH}: distances of few images are '
      'too large, so compare only with the same number.'
    )
  if row and count != row['num']:
    notes.append(
      f'The published row uses {row["num"]} images, this one {count}.'
    )
  # ADM's statistics have no description of images. Papers that use these
  # statistics sample random labels.
  adm = extractor.is_inception and 'images' not in reference
  expected = row.get('labels') or ('random' if adm else None)
  plan = 'classes' if labels and labels[0].isdigit() else labels
  if labels and expected and plan != expected:
    notes.append(
      f'Labels are {labels}, but the row to compare with has {expected} ones: '
      'balanced labels alone lower FID by about 0.1 on ImageNet-256.'
    )
  if eight_bit != reference.get('eight_bit', True):
    kinds = ('float', '8-bit')
    notes.append(
      f'Samples are {kinds[eight_bit]} images, but the reference has '
      f'{kinds[not eight_bit]} ones: rounding alone changes distances.'
    )
  if reference.get('reconstructions'):
    notes.append(
      'The real images are reconstructions, decoded from their latents: '
      'distances exclude the loss of the autoencoder itself. Published figures '
      'use the original images (--reference).'
    )
  if row and not extractor.is_inception:
    notes.append(
      f'Features of {extractor.name} give no FID: the published row is not '
      'comparable.'
    )
  if extractor.is_inception:
    preprocessing = extractor.about['preprocessing']
    if preprocessing not in USUAL:
      notes.append(
        f'Most published FIDs use ADM preprocessing, this one {preprocessing}.'
      )
    if not extractor.published:
      notes.append('The weights are not the published file: this is not FID.')
  return notes


def format_table(
  estimates: Mapping[str, Estimate], extractor: Extractor
) -> str:
  """Returns a Markdown table with one row per metric."""
  rows = [
    (name_of(name, extractor), shown(name, estimate))
    for name, estimate in estimates.items()
  ]
  return markdown.table(('metric', 'value'), rows)


def format_row(
  about: Mapping[str, Any],
  estimates: Mapping[str, Estimate],
  extractor: Extractor,
) -> str:
  """Returns a one-row Markdown table for a paper, with `about` and metrics."""
  cells = {key: '' if v is None else str(v) for key, v in about.items()}
  for name, estimate in estimates.items():
    cells[name_of(name, extractor)] = shown(name, estimate)
  return markdown.table(cells, [cells.values()]).rstrip()


def shown(name: str, found: Estimate) -> str:
  """Returns a metric's value and standard error as text."""
  if name not in _PERCENT:
    return str(found)
  error = '' if found.error is None else f' ± {found.error:.1%}'
  return f'{found.value:.1%}{error}'
