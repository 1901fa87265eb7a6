"""Conversions of nested dictionaries of plain values."""

from collections.abc import Mapping
from typing import Any


def flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Turns nested sections into dotted keys, and tuples into lists."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return flat


def without_folders(protocol: dict[str, Any]) -> dict[str, Any]:
  """Turns sections into dotted keys, and omits the keys named `folder`.

  Weights can move to another folder, so only hashes identify weights.
  """
  flat = flatten(protocol)
  return {k: v for k, v in flat.items() if k.rpartition('.')[2] != 'folder'}


def with_tuples(section: Mapping[str, Any]) -> dict[str, Any]:
  """Turns the lists of a section into tuples."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
