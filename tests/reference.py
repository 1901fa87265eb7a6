"""Reads golden values of reference implementations.

Small files are in tests/golden. Larger files are in ../shared/golden, next to
the project. Tests that need a missing file are skipped.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dit import model
from dit.weights import convert

HERE = pathlib.Path(__file__).parent
PLACES = (HERE / 'golden', HERE.parents[1] / 'shared' / 'golden')
# Each family maps to (folder, taps). All of these networks have four heads.
FAMILIES = {
  'ig_sit': ('ig_sit', (2,)),
  'ig_lightningdit': ('ig_lightningdit', (2,)),
  'sit': ('sit_upstream', ()),
  'dit': ('dit', ()),
}


def find(name):
  """Returns the path of a golden file, or skips the test if it is missing."""
  for place in PLACES:
    if (place / name).exists():
      return place / name
  pytest.skip(f'golden file {name} is not beside the project')


def read(name):
  if name.endswith('.json'):
    return json.loads(find(name).read_text())
  return (
    load_file(find(name)) if name.endswith('tensors') else np.load(find(name))
  )


def state_dtype():
  """Returns float64 if float64 is enabled in JAX, otherwise float32."""
  return jnp.float64 if jax.config.jax_enable_x64 else jnp.float32


def nhwc(x):
  """Moves channels from axis -3 to the last axis."""
  return jnp.asarray(np.moveaxis(x, -3, -1), state_dtype())


def relative(ours, golden):
  """Returns the L2 distance of two arrays, divided by the norm of `golden`.

  `ours` is (..., H, W, C) and `golden` is (..., C, H, W). The distance is also
  printed; `pytest -rP` shows the output of passing tests.
  """
  golden = np.moveaxis(np.asarray(golden, np.float64), -3, -1)
  ours = np.asarray(ours, np.float64)
  distance = np.linalg.norm(ours - golden) / np.linalg.norm(golden)
  print(f'distance {distance:.1e}')
  return distance


@functools.cache
def denoiser(family, variant='model'):
  """Returns a golden network that computes in `state_dtype()`."""
  folder, taps = FAMILIES[family]
  config, params = convert.from_published(
    read(f'{folder}/{variant}.safetensors'),
    family=family,
    num_heads=4,
    taps=taps,
  )
  config = dataclasses.replace(config, dtype=jnp.dtype(state_dtype()).name)
  return model.bind(config, jax.tree.map(jnp.asarray, params))
