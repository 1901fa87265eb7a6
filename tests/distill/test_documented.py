import itertools
import pathlib
import re

import jax.numpy as jnp
import pytest
from students import make_distillation

from distill import dmd
from distill.noise_levels import bounds

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ('README.md', 'docs/distillation.md')


@pytest.mark.parametrize('page', PAGES)
def test_examples_show_schedules_where_they_differ(page):
  """Documented examples of `hybrid` and `constrained` have several steps."""
  # For one step, both schedules equal `full`.
  tops = [
    bounds(make_distillation(schedule=name).config, jnp.float32(1.0))
    for name in ('full', 'constrained', 'hybrid')
  ]
  assert tops[0] == tops[1] == tops[2] == (1, 1)
  text = (ROOT / page).read_text()
  methods = re.findall(r'configs/distill/\w+\.py:(\w+),(\d+)', text)
  assert methods
  for method, steps in methods:
    assert method not in ('constrained', 'hybrid') or int(steps) > 1


def test_docs_say_that_decoupled_levels_do_not_help_here():
  text = ' '.join((ROOT / 'docs/distillation.md').read_text().split())
  assert 'Decoupled levels do not help here.' in text
  assert 'Hybrid has 1.919 ± 0.313, DM alone 1.835 ± 0.377' in text


def test_unit_of_decoupled_terms_is_marked_as_ours():
  """Docs and config mark the unit as ours, because the paper has no unit."""
  page = (ROOT / 'docs/distillation.md').read_text()
  config = (ROOT / 'configs/distill/base.py').read_text()
  assert 'The unit n is *ours*' in page
  assert '`conditional` (*ours*)' in page
  assert "conditional (ours: Decoupled DMD's equation 6 has no unit)" in (
    ' '.join(config.replace('#', '').split())
  )
  assert '`conditional` is ours' in ' '.join(dmd.__doc__.split())


def test_rows_of_imagenet_say_where_they_come_from():
  """Every FID of a student is marked as published, measured or not run."""
  lines = (ROOT / 'docs/distillation.md').read_text().splitlines()
  start = lines.index('| method | FID | source |') + 2
  rows = [*itertools.takewhile(lambda row: row.startswith('|'), lines[start:])]
  assert len(rows) >= 5
  for row in rows:
    assert re.search(r'\| (published|measured here|not run)', row), row
