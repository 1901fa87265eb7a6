"""Checksums of arrays, independent of their devices and sharding."""

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
  """Returns the sum of x's words times 1, 3, 5, ..., modulo 2^32.

  Odd factors are invertible, so the change of any single word is detected.
  """
  kind = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
  words = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
  place = jnp.uint32(0)
  for axis, size in enumerate(words.shape):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(
      jnp.uint32, words.shape, axis
    )
  return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


def check_digests(name: str, tree: Any, digests: dict[str, int]) -> None:
  """Raises ValueError if a restored array differs from the saved one."""
  found = digests_of(tree)
  wrong = [k for k in found | digests if found.get(k) != digests.get(k)]
  if wrong:
    raise ValueError(
      f'{len(wrong)} arrays of {name} differ from what was saved, such as '
      f'{wrong[0]}'
    )
