"""Config keys and values of older versions, and what they are called today.

Runs and folders of weights keep the names of the version that wrote them. Every
reader of a stored config passes it through `upgrade`, so that the rest of the
code knows today's names only.
"""

from collections.abc import Mapping
from typing import Any

# Keys that left, and the value with which a run was as it is without them. A
# run that has another value can be sampled, but not continued.
REMOVED: dict[str, Any] = {
  'eval.autoencoder': '',
  'log.preview_autoencoder': '',
}
# Sections that left; no result of a run depends on them.
REMOVED_SECTIONS = ('compare', 'prepare')


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a stored config with today's names of keys and values.

  Args:
    config: Contents of the config.json of a run or of a folder of weights;
      what is not as expected stays as it is, for the reader to refuse.
  """
  upgraded = {
    name: dict(section) if isinstance(section, dict) else section
    for name, section in config.items()
  }
  for key, idle in REMOVED.items():
    name, _, key = key.partition('.')
    section = upgraded.get(name)
    if isinstance(section, dict) and section.get(key) == idle:
      section.pop(key, None)
  # Every run had the section, and students a method.
  student = upgraded.get('distill')
  if isinstance(student, dict) and student.get('method') == '':
    del upgraded['distill']
  return upgraded
