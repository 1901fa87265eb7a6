"""Config keys and values of older versions, and what they are called today.

Runs and folders of weights keep the names of the version that wrote them. Every
reader of a stored config passes it through `upgrade`, so that the rest of the
code knows today's names only.
"""

import re
from collections.abc import Mapping
from typing import Any

# Today's key for each renamed one.
RENAMED = {
  'distill.normaliser': 'distill.normalizer',
  'distill.regulariser': 'distill.regularizer',
  'eval.half': 'eval.float16_distances',
  'eval.neighbours': 'eval.neighbors',
  'model.learn_sigma': 'model.learned_variance',
  'sample.last': 'sample.last_step_size',
}
# Today's text for each renamed value of a key: a regular expression that
# matches from its beginning, and what replaces the match.
RENAMED_VALUES = {
  'distill.method': ('trajectory$', 'teacher_trajectory'),
  'distill.query': ('trajectory$', 'student_trajectory'),
  'sample.solver': (r'(.*):last=', r'\1:final_step='),
}
# Today's option of a solver for each renamed one.
RENAMED_OPTIONS = {'last': 'final_step'}
# Removed keys, with the value that changed nothing. A run with another value
# can be sampled, but not resumed.
REMOVED: dict[str, Any] = {
  'checkpoint.continue_unsaved': False,
  'distill.trajectory_weight': 0.0,
  'eval.autoencoder': '',
  'log.preview_autoencoder': '',
  'objective.guided_by': 'ema',
  'objective.guided_taps': False,
}
# Removed sections, on which no result of a run depends.
_REMOVED_SECTIONS = ('compare', 'prepare')
# Sections of results, which have the keys of sections of the config.
_SECTIONS_OF_RESULTS = {'sampling': 'sample', 'evaluation': 'eval'}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a stored config with today's names of keys and values.

  Args:
    config: Contents of the config.json of a run or of a folder of weights, or
      settings beside results. Values of unexpected types stay as they are, for
      the reader to refuse.
  """
  upgraded: dict[str, Any] = {}
  for name, values in config.items():
    if name in _REMOVED_SECTIONS:
      continue
    if name == 'guide' and isinstance(values, dict):
      values = upgrade(values)
    elif isinstance(values, dict):
      values = _upgrade_section(_SECTIONS_OF_RESULTS.get(name, name), values)
    upgraded[name] = values
  # Every run had the section, with a method only if it was a student.
  student = upgraded.get('distill')
  if isinstance(student, dict) and student.get('method') == '':
    del upgraded['distill']
  return upgraded


def _upgrade_section(name: str, section: dict[str, Any]) -> dict[str, Any]:
  upgraded = {}
  for old, value in section.items():
    key = RENAMED.get(f'{name}.{old}', f'{name}.{old}')
    if key in RENAMED_VALUES and isinstance(value, str):
      pattern, replacement = RENAMED_VALUES[key]
      value = re.sub(f'^{pattern}', replacement, value)
    if key not in REMOVED or value != REMOVED[key]:
      upgraded[key.removeprefix(f'{name}.')] = value
  return upgraded
