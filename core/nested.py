"""Nested dictionaries of plain values."""

from typing import Any


def flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Turns nested sections into dotted keys, and tuples into JSON's lists."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return flat
