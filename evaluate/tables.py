"""Metrics for people: a table, a line for a paper, and what to beware of.

A figure means nothing without how it was made, so each carries its protocol.
"""

from collections.abc import Mapping
from typing import Any

from core import markdown
from evaluate.extractor import Extractor
from evaluate.metrics import Estimate, name_of
from evaluate.resize import USUAL

# Below it, a Frechet distance is mostly the bias of its covariances.
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
  """Returns the reasons why the figures may not be comparable.

  Args:
    extractor: the extractor of the features.
    count: number of images of each set.
    labels: plan of their labels; None if it is not known.
    eight_bit: whether they were uint8.
    reference: description of the real images.
    row: labels and count of the published row to compare with; {} for none.
    bad: number of images that were not finite when they were drawn.

  Returns:
    The reasons, a sentence each; empty if there are none.
  """
  found = []
  if bad:
    found.append(
      f'{bad} of the images had values that are not finite (NaN or infinity), '
      'which are black pixels here: metrics count them like any other.'
    )
  if count < _ENOUGH:
    found.append(
      f'{count} images are fewer than {_ENOUGH}: distances of few images are '
      'too large, so compare only with the same number.'
    )
  if row and count != row['num']:
    found.append(
      f'The published row is of {row["num"]} images, this of {count}.'
    )
  # ADM's statistics do not describe themselves; rows against them are random.
  adm = extractor.is_inception and 'images' not in reference
  expected = row.get('labels') or ('random' if adm else None)
  plan = 'classes' if labels and labels[0].isdigit() else labels
  if labels and expected and plan != expected:
    found.append(
      f'Labels are {labels}, those of the row to compare with {expected}: '
      'balanced labels alone lower FID, by about 0.1 on ImageNet-256.'
    )
  if eight_bit != reference.get('eight_bit', True):
    kinds = ('float', '8-bit')
    found.append(
      f'Samples are {kinds[eight_bit]} images, the reference is of '
      f'{kinds[not eight_bit]} ones: rounding alone moves distances.'
    )
  if reference.get('reconstructions'):
    found.append(
      'The real images are reconstructions, decoded from their latents: what '
      'the autoencoder itself loses is in no distance. Published figures are '
      'against the images themselves (--reference).'
    )
  if row and not extractor.is_inception:
    found.append(
      f'Features of {extractor.name} give no FID: the published row says '
      'nothing about them.'
    )
  if extractor.is_inception:
    preprocessing = extractor.about['preprocessing']
    if preprocessing not in USUAL:
      found.append(
        f'Published FIDs mostly have ADM preprocessing, this {preprocessing}.'
      )
    if not extractor.published:
      found.append('The weights are not the published file: this is not FID.')
  return found


def format_table(
  estimates: Mapping[str, Estimate], extractor: Extractor
) -> str:
  """A line for each metric, as Markdown."""
  rows = [
    (name_of(name, extractor), shown(name, found))
    for name, found in estimates.items()
  ]
  return markdown.table(('metric', 'value'), rows)


def format_row(
  about: Mapping[str, Any],
  estimates: Mapping[str, Estimate],
  extractor: Extractor,
) -> str:
  """Header and one line of Markdown, ready for a paper.

  Args:
    about: what the line says before the metrics, by column.
    estimates: the metrics.
    extractor: of the features.
  """
  cells = {key: '' if v is None else str(v) for key, v in about.items()}
  for name, found in estimates.items():
    cells[name_of(name, extractor)] = shown(name, found)
  return markdown.table(cells, [cells.values()]).rstrip()


def shown(name: str, found: Estimate) -> str:
  """Value and standard error as text."""
  if name not in _PERCENT:
    return str(found)
  error = '' if found.error is None else f' ± {found.error:.1%}'
  return f'{found.value:.1%}{error}'
