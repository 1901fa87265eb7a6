"""Checks weights for NaN and infinity when they are read or written.

Images from nonfinite weights are black. Metrics do not reveal the error,
since the Frechet distance of black images is finite.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from core.errors import InputError

# Key that marks nonfinite weights in a folder's `info` or a file's header.
ALLOWED = 'allow_nonfinite'


def check_finite(
  where: object, tree: Any, *, advice: str, allow: bool = False
) -> int:
  """Returns the number of arrays with values that are not finite.

  Args:
    where: Source of the weights, named in the message.
    tree: Pytree of numpy or JAX arrays, in the precision that will be used;
      integers are ignored.
    advice: Advice at the end of the message.
    allow: Whether to warn instead of raising.

  Raises:
    InputError: if values are not finite and `allow` is false.
  """
  leaves = [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree.leaves_with_path(tree)
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  ]
  # One jitted function checks all JAX arrays; numpy checks the others.
  arrays = {name: leaf for name, leaf in leaves if isinstance(leaf, jax.Array)}
  finite = jax.device_get(_are_finite(arrays))
  failures = [
    (name, leaf)
    for name, leaf in leaves
    if not (finite[name] if name in arrays else np.isfinite(leaf).all())
  ]
  if not failures:
    return 0
  name, leaf = failures[0]
  isfinite = jnp.isfinite if name in arrays else np.isfinite
  count = leaf.size - int(isfinite(leaf).sum())
  suffix = f' (and {len(failures) - 1} more)' if failures[1:] else ''
  problem = (
    f'{where}: tensor {name!r} has {count:,} of {leaf.size:,} values that are '
    f'not finite in {leaf.dtype}{suffix}'
  )
  if not allow:
    raise InputError(f'{problem}; {advice}.')
  logging.warning('%s; they are used as they are, as allowed.', problem)
  return len(failures)


@jax.jit
def _are_finite(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {name: jnp.isfinite(leaf).all() for name, leaf in arrays.items()}
