"""Every table of results in the docs has a source."""

import re

import pytest
from command_runs import ROOT

from commands.flags.compare import METHODS

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
# A table cell that has one decimal number, and maybe an error or a unit.
FIGURE = re.compile(r'[-+]?[\d,]*\.\d+(?:e-?\d+)?( ?(%|±.*|s|se|ms|GiB|x))?')
SOURCE = re.compile(
  r'\b(published|measured|not run|computed|compiled|counted)\b', re.IGNORECASE
)


def tables(text):
  """Yields (line number, earlier text of the section, rows) of each table."""
  lines, section, rows, fenced = text.splitlines(), [], [], False
  for number, line in enumerate([*lines, ''], 1):
    fenced ^= line.startswith('```')
    if not fenced and line.startswith('|'):
      rows.append(line)
      continue
    if rows:
      yield number - len(rows), '\n'.join(section), rows
      section, rows = [*section, *rows], []
    section = [line] if line.startswith('#') else [*section, line]


def holds_figures(rows):
  cells = (cell.strip(' *') for row in rows[2:] for cell in row.split('|'))
  return any(FIGURE.fullmatch(cell) for cell in cells)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_table_of_figures_says_published_or_measured(page):
  for number, section, rows in tables(page.read_text()):
    if holds_figures(rows):
      # The table header, or the text before the table, must name a source.
      assert SOURCE.search(f'{section}\n{rows[0]}'), (
        f'{page.name}:{number} has figures; say before the table whether they '
        'are published (by whom), measured (how), or not run.'
      )


def test_a_table_without_a_source_is_found():
  table = '| a | FID |\n|---|---|\n| x | 2.06 |'
  ((_, section, rows),) = tables(f'# Measured\n## Results\n\n{table}\n')
  assert holds_figures(rows) and not SOURCE.search(section + rows[0])
  ((_, section, rows),) = tables(f'## Results\nAs published by X.\n\n{table}')
  assert SOURCE.search(section)
  ((_, _, rows),) = tables('| a | b |\n|---|---|\n| `x:1.5` | 2 |')
  assert not holds_figures(rows)


def read(page):
  return ' '.join((ROOT / page).read_text().split())


def test_the_readme_says_what_of_published_weights_is_tested():
  text = read('README.md')
  assert 'none of the published files has been loaded here' in text
  assert 'Small networks of the same architectures' in text


def test_s2_is_shown_as_published():
  """The examples add S2 to CFG, with an omega of 0.25."""
  assert 'cfg:1.35,s2:1.25' in METHODS
  assert '"about 10 %" of the blocks, "3/24"' in read('docs/guidance.md')
