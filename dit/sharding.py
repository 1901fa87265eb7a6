"""Meshes, and where arrays live on them.

A mesh has two axes: `data` (copies of the parameters) and `fsdp` (parameters
cut into slices). Batches are cut over both. Every parameter has logical axes,
found from the end of its path in `LOGICAL_AXES`; `MESH_AXES` maps a logical
axis to the mesh axis that cuts it. Trees that hold parameters under longer
paths (EMA, optimiser state) fall under the same rules.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dit.types import InputError

BATCH_AXES = ('data', 'fsdp')

# Leading axes that stack modules (L blocks, K heads) are added by rank.
LOGICAL_AXES = (
  (r'(qkv|fc1|modulation|patch_embed)/kernel', ('inputs', 'width')),
  (r'(attention/proj|fc2)/kernel', ('width', 'outputs')),
  (r'label_embed', ('classes', 'width')),
  (r'(head|tap_heads)/proj/kernel', ('width', 'outputs')),
  # Biases, gains and the position tables are small: a copy on every device.
  (r'bias|scale|position|rotary', ()),
)
MESH_AXES = {'width': 'fsdp'}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; -1 for all that remain."""

  data: int = -1
  fsdp: int = 1


def make_mesh(
  config: MeshConfig, devices: list[jax.Device] | None = None
) -> Mesh:
  """Lays devices (default: all) out as a (data, fsdp) mesh.

  Raises:
    InputError: if the axes do not use exactly the devices at hand.
  """
  devices = devices if devices is not None else jax.devices()
  sizes = [config.data, config.fsdp]
  fixed = math.prod(size for size in sizes if size != -1)
  wrong = any(size < 1 and size != -1 for size in sizes)
  bad = wrong or sizes.count(-1) > 1 or len(devices) % fixed
  if bad or (-1 not in sizes and fixed != len(devices)):
    raise InputError(
      f'mesh data={config.data}, fsdp={config.fsdp} does not use the '
      f'{len(devices)} devices at hand; their product must be '
      f'{len(devices)} (at most one may be -1, the rest).'
    )
  sizes = [size if size != -1 else len(devices) // fixed for size in sizes]
  return Mesh(
    np.asarray(devices).reshape(sizes),
    BATCH_AXES,
    axis_types=(AxisType.Auto,) * 2,
  )


def check_batch(mesh: Mesh, batch_size: int, name: str) -> None:
  """Raises InputError unless `batch_size` divides over the mesh."""
  if batch_size < 1 or batch_size % mesh.size:
    raise InputError(
      f'{name} is {batch_size}, expected a positive multiple of the '
      f'{mesh.size} devices.'
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading axis cut over all devices."""
  return NamedSharding(mesh, P(BATCH_AXES))


def constrain_batch(x: jax.Array) -> jax.Array:
  """Keeps activations cut along the batch, where a mesh is in use."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """Partition of the parameter at `path`, such as 'blocks/mlp/fc1/kernel'.

  An axis that its mesh axis does not divide stays whole.

  Raises:
    ValueError: if no rule of LOGICAL_AXES matches.
  """
  matches = (
    logical
    for pattern, logical in LOGICAL_AXES
    if re.search(rf'(^|/)({pattern})$', path)
  )
  logical = next(matches, None)
  if logical is None:
    raise ValueError(
      f'no sharding rule for {path!r}; add one to dit.sharding.LOGICAL_AXES.'
    )
  parts = [None] * (len(shape) - len(logical))
  for axis, size in zip(logical, shape[len(parts) :], strict=True):
    mesh_axis = MESH_AXES.get(axis)
    divides = mesh_axis is not None and size % mesh.shape[mesh_axis] == 0
    parts.append(mesh_axis if divides else None)
  return P(*parts)


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
  """Shardings for a tree of parameters, or for a state that holds them."""

  def one(path, leaf):
    if not leaf.ndim:  # counters
      return replicated(mesh)
    keys = [getattr(key, 'key', getattr(key, 'name', '')) for key in path]
    return NamedSharding(mesh, spec('/'.join(keys), leaf.shape, mesh))

  return jax.tree.map_with_path(one, tree)
