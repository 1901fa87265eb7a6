"""Patches, positions and time features match independent computations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.embed import patchify, position_table, time_features, unpatchify

X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))


@pytest.mark.parametrize('patch', [1, 2, 4, 8])
def test_unpatchify_inverts_patchify(patch):
  tokens = patchify(X, patch)
  assert tokens.shape == (2, (8 // patch) ** 2, patch**2 * 3)
  np.testing.assert_array_equal(unpatchify(tokens, patch), X)


def test_tokens_are_patches_in_row_major_order():
  tokens = patchify(X, 2)
  for n in range(16):
    row, column = divmod(n, 4)
    expected = X[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    np.testing.assert_array_equal(tokens[:, n], expected.reshape(2, -1))


@pytest.mark.parametrize(('side', 'width'), [(3, 8), (4, 32), (16, 12)])
def test_position_table(side, width):
  quarter = width // 4
  expected = np.empty((side * side, width))
  for n in range(side * side):
    row, column = divmod(n, side)
    for k in range(quarter):
      frequency = 1 / 10_000 ** (k / quarter)
      expected[n, k::quarter] = [
        function(place * frequency)
        for place in (column, row) for function in (math.sin, math.cos)
      ]  # fmt: skip
  table = position_table(side, width)
  assert table.dtype == np.float32
  np.testing.assert_allclose(table, expected, atol=1e-6)


def test_time_features_are_cosines_then_sines():
  times = [0.0, 0.3, 1.0]
  features = time_features(jnp.asarray(times))
  assert features.shape == (3, 256) and features.dtype == jnp.float32
  for t, feature in zip(times, features, strict=True):
    angles = [t * 10_000 ** (-k / 128) for k in range(128)]
    expected = [*map(math.cos, angles), *map(math.sin, angles)]
    np.testing.assert_allclose(feature, expected, atol=1e-6)
