"""Device meshes and the sharding of arrays over them.

Batches are sharded over the first two of a mesh's three axes:

  data     replicates the parameters
  fsdp     shards the parameters, and gathers the parameters of a running block
  tensor   shards attention heads and hidden widths within each block

Each backbone's rules (`LOGICAL_AXES`) map the end of a parameter's path to
logical axes, and `MESH_AXES` maps logical axes to mesh axes. The rules also
apply to EMA and optimizer state, which ZeRO-1 additionally shards over `data`.
Layers request the sharding that they need with `constrain`.
"""

import dataclasses
import math
import re
from typing import Annotated, Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from core.errors import InputError
from core.ranges import Range, check_fields
from dit.config import DiTConfig

AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')
# Regular expressions for ends of paths, each with the parameter's logical axes.
Rules = tuple[tuple[str, tuple[str, ...]], ...]

# Rules omit the leading axes of stacked modules (L blocks, K heads).
LOGICAL_AXES: Rules = (
  (r'(qkv|fc1|modulation)/kernel', ('width', 'hidden')),
  (r'(attention/proj|fc2)/kernel', ('hidden', 'width')),
  (r'patch_embed/kernel', ('patch', 'width')),
  (r'(head|tap_heads)/proj/kernel', ('width', 'patch')),
  (r'label_embed', ('classes', 'width')),
  # Low-rank adapters (`distill.lora`).
  (r'lora/\w+/down', ('hidden', 'rank')),
  (r'lora/\w+/up', ('rank', 'hidden')),
  # Biases, gains and position tables are small, so they are replicated.
  (r'bias|scale|position|rotary', ()),
)
MESH_AXES = {'width': 'fsdp', 'hidden': 'tensor'}
Devices = Annotated[int, Range(-1, 2**20)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Number of devices per mesh axis; configs/base.py explains each field."""

  data: Devices = -1
  fsdp: Devices = 1
  tensor: Devices = 1
  zero1: bool = False

  def __post_init__(self) -> None:
    check_fields('mesh', self)


def make_mesh(
  config: MeshConfig, devices: list[jax.Device] | None = None
) -> Mesh:
  """Returns a (data, fsdp, tensor) mesh of the devices (default: all).

  Raises:
    InputError: if the axes do not use all devices.
  """
  devices = devices if devices is not None else jax.devices()
  sizes = [config.data, config.fsdp, config.tensor]
  fixed = math.prod(size for size in sizes if size != -1)
  is_empty = any(size < 1 and size != -1 for size in sizes)
  is_bad = is_empty or sizes.count(-1) > 1 or len(devices) % fixed
  if is_bad or (-1 not in sizes and fixed != len(devices)):
    raise InputError(
      f'mesh data={config.data}, fsdp={config.fsdp}, tensor={config.tensor} '
      f'does not use the {len(devices)} devices at hand; their product must be '
      f'{len(devices)} (at most one may be -1, for all remaining devices).'
    )
  sizes = [size if size != -1 else len(devices) // fixed for size in sizes]
  return Mesh(
    _arrange(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def _arrange(sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
  """Arranges devices; on TPU, neighbors in the mesh are directly connected."""
  if devices[0].platform != 'tpu':
    return np.asarray(devices).reshape(sizes)
  return mesh_utils.create_device_mesh(
    sizes, devices, allow_split_physical_axes=True
  )


def check_model(mesh: Mesh, config: DiTConfig, *, zero1: bool = False) -> None:
  """Raises InputError if the mesh does not divide the widths and heads."""
  shape = mesh.shape
  for name, size, axis, count in (
    ('model.width', config.width, 'fsdp', shape['fsdp']),
    ('model.width', config.width, 'data times fsdp', batch_parts(mesh)),
    ('model.num_heads', config.num_heads, 'tensor', shape['tensor']),
    ('the width inside the MLP', config.hidden, 'tensor', shape['tensor']),
  ):
    if size % count and (zero1 or axis != 'data times fsdp'):
      raise InputError(
        f'{name} is {size}, which mesh.{axis}={count} does not divide'
        + ', as mesh.zero1 needs' * (axis == 'data times fsdp')
        + '; choose a mesh that does.'
      )


def check_batch(mesh: Mesh, batch_size: int, name: str, parts: int = 1) -> None:
  """Raises InputError if `batch_parts` * `parts` does not divide the batch."""
  count = batch_parts(mesh) * parts
  if batch_size < 1 or batch_size % count:
    prefix = f'{parts} parts on ' if parts > 1 else ''
    raise InputError(
      f'{name} is {batch_size}, expected a positive multiple of {count}, for '
      f'{prefix}{batch_parts(mesh)} devices.'
    )


def batch_parts(mesh: Mesh) -> int:
  """Returns the number of devices that a batch is sharded over."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding with a copy on every device."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of the leading axis over `data` and `fsdp`."""
  return NamedSharding(mesh, P(BATCH_AXES))


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
  """Constrains the sharding of `x`; does nothing without a mesh.

  Args:
    x: Any array.
    *axes: Mesh axes that shard each axis of `x`. None and missing entries
      leave an axis unsharded.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, P(*axes))


def constrain_batch(x: jax.Array) -> jax.Array:
  """Shards only the batch axis of `x`."""
  return constrain(x, BATCH_AXES)


def spec(
  path: str,
  shape: tuple[int, ...],
  mesh: Mesh,
  *,
  zero1: bool = False,
  rules: Rules = LOGICAL_AXES,
) -> P:
  """Returns a parameter's partition, from the first rule that matches `path`.

  An axis stays unsharded if the mesh axis cannot divide its size. `zero1` also
  shards `fsdp` axes over `data`. A path is a text like 'blocks/mlp/fc1/kernel'.

  Raises:
    ValueError: if no rule matches.
  """
  matches = (
    axes for pattern, axes in rules if re.search(rf'(^|/)({pattern})$', path)
  )
  axes = next(matches, None)
  if axes is None:
    raise ValueError(
      f'no sharding rule for {path!r}; add one to the logical axes of its '
      'backbone.'
    )

  def shard(axis, size):
    mesh_axis = MESH_AXES.get(axis)
    if zero1 and mesh_axis == 'fsdp' and size % batch_parts(mesh) == 0:
      return BATCH_AXES
    is_even = mesh_axis is not None and size % mesh.shape[mesh_axis] == 0
    return mesh_axis if is_even else None

  offset = len(shape) - len(axes)
  return P(*[None] * offset, *map(shard, axes, shape[offset:]))


def tree_shardings(
  tree: Any, mesh: Mesh, *, zero1: bool = False, rules: Rules = LOGICAL_AXES
) -> Any:
  """Returns the shardings of parameters, or of a state containing them."""

  def shard(path, leaf):
    if not leaf.ndim:  # counters
      return replicated(mesh)
    keys = [getattr(key, 'key', getattr(key, 'name', '')) for key in path]
    return NamedSharding(
      mesh,
      spec('/'.join(keys), leaf.shape, mesh, zero1=zero1, rules=rules),
    )

  return jax.tree.map_with_path(shard, tree)


def placed(shapes: Any, shardings: Any, dtype: str | None = None) -> Any:
  """Combines shapes and shardings in one tree; `dtype` replaces the dtypes."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, dtype or leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )
