"""Renames config keys and values of older versions.

Every reader of a stored config calls `upgrade`, so the rest of the code uses
only current names.
"""

import re
from collections.abc import Mapping
from typing import Any

# Current key for each old key.
RENAMED = {
  'distill.normaliser': 'distill.normalizer',
  'distill.regulariser': 'distill.regularizer',
  'eval.half': 'eval.float16_distances',
  'eval.neighbours': 'eval.neighbors',
  'model.learn_sigma': 'model.learned_variance',
  'sample.last': 'sample.last_step_size',
}
# For each key, a regular expression for the start of old values, and the text
# that replaces this start.
RENAMED_VALUES = {
  'distill.method': ('trajectory$', 'teacher_trajectory'),
  'distill.query': ('trajectory$', 'student_trajectory'),
  'sample.solver': (r'(.*):last=', r'\1:final_step='),
}
# Current key for each old key in a description of latents.
RENAMED_LATENTS = {'normalisation': 'normalization'}
# Current solver option for each old option.
RENAMED_OPTIONS = {'last': 'final_step'}
# Removed keys, each with the value that had no effect. A run with another
# value can be sampled, but not resumed.
REMOVED: dict[str, Any] = {
  'checkpoint.continue_unsaved': False,
  'distill.trajectory_weight': 0.0,
  'eval.autoencoder': '',
  'log.preview_autoencoder': '',
  'objective.guided_by': 'ema',
  'objective.guided_taps': False,
}
# Removed sections, which never affected the results of a run.
_REMOVED_SECTIONS = ('compare', 'prepare')
# For each section in files of results, the config section with the same keys.
# Settings that older transformers lack, with the values that they imply.
_ADDED_TO_MODEL = {'min_time': 0.05, 'tap_head': 'linear'}
_SECTIONS_OF_RESULTS = {'sampling': 'sample', 'evaluation': 'eval'}


def upgrade_latents(stored: Mapping[str, Any]) -> dict[str, Any]:
  """Renames the old keys in a stored description of latents or records."""
  return {RENAMED_LATENTS.get(key, key): stored[key] for key in stored}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a stored config with current names of keys and values.

  Args:
    config: Contents of config.json in a run or weights folder, or settings that
      are stored with results. Values of unexpected types stay unchanged.
  """
  sections: dict[str, Any] = {}
  for name, values in config.items():
    if name in _REMOVED_SECTIONS:
      continue
    if name == 'guide' and isinstance(values, dict):
      values = upgrade(values)
    elif isinstance(values, dict):
      values = _upgrade_section(_SECTIONS_OF_RESULTS.get(name, name), values)
    if name == 'model' and isinstance(values, dict) and 'convention' in values:
      values = _ADDED_TO_MODEL | values
    sections[name] = values
  # Older runs have section `distill` even without distillation (method '').
  student = sections.get('distill')
  if isinstance(student, dict) and student.get('method') == '':
    del sections['distill']
  return sections


def _upgrade_section(name: str, section: dict[str, Any]) -> dict[str, Any]:
  values = {}
  for old, value in section.items():
    key = RENAMED.get(f'{name}.{old}', f'{name}.{old}')
    if key in RENAMED_VALUES and isinstance(value, str):
      pattern, replacement = RENAMED_VALUES[key]
      value = re.sub(f'^{pattern}', replacement, value)
    if key not in REMOVED or value != REMOVED[key]:
      values[key.removeprefix(f'{name}.')] = value
  return values
