"""Checksums of arrays, which do not depend on devices or sharding."""

from typing import Any

import jax
import jax.numpy as jnp


def digests_of(tree: Any) -> dict[str, int]:
  """Returns a checksum of every array, by path."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): int(_digest(leaf))
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


@jax.jit
def _digest(x: jax.Array) -> jax.Array:
  """Returns the sum of the words of x, weighted by 1, 3, 5, ..., modulo 2^32.

  Odd factors are invertible, so the change of any single word is detected.
  """
  kind = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
  words = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
  position = jnp.uint32(0)
  for axis, size in enumerate(words.shape):
    position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(
      jnp.uint32, words.shape, axis
    )
  return jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)


def check_digests(name: str, tree: Any, digests: dict[str, int]) -> None:
  """Raises ValueError if a restored array differs from the saved array."""
  current = digests_of(tree)
  names = [k for k in current | digests if current.get(k) != digests.get(k)]
  if names:
    raise ValueError(
      f'{len(names)} arrays of {name} differ from what was saved, such as '
      f'{names[0]}'
    )
