"""The interface of a backbone, which all commands use to run a network.

  NetworkConfig   settings, a frozen dataclass
  BoundNetwork    the network with its parameters: a `Denoiser`
  Backbone        both classes, the initializer, and the sharding rules

docs/extending.md explains how to add a backbone to the list in `dit.backbone`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from core.errors import InputError, nearest, quote
from core.ranges import Choice, Range, check_fields
from dit.types import ClassConditional, Condition, DenoiserOutput, SubNetworks

Params = dict[str, Any]
Width = Annotated[int, Range(1, 65_536)]
DTYPES = ('auto', 'float32', 'bfloat16', 'float64')


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
  """Settings that every network has; a base class of frozen dataclasses.

  The config section `model` sets the fields. A new field needs a default value,
  since older runs lack the field.

  Attributes:
    size: Height and width of the latent.
    channels: Channels C of the latent.
    num_classes: Number of classes, which is also the index of the null label.
    depth: Number L of blocks that guidance can skip; 1 without such blocks.
    taps: Number of blocks before each intermediate head, in rising order.
    null_label: Whether the network was trained on the null label.
    dtype: Type of activations; 'auto' is float32 on CPU, and bfloat16 on
      accelerators. 'float64', for parity checks, needs jax_enable_x64.
    param_dtype: Type of parameters.
  """

  size: Annotated[int, Range(1, 16_384)]
  channels: Annotated[int, Range(1, 65_536)]
  num_classes: Annotated[int, Range(1, 10**6)]
  depth: Annotated[int, Range(1, 10_000)]
  taps: Annotated[tuple[int, ...], Range(1, 10_000)] = ()
  null_label: bool = True
  dtype: Annotated[str, Choice(DTYPES)] = 'auto'
  param_dtype: Annotated[str, Choice(DTYPES[1:])] = 'float32'

  def __post_init__(self) -> None:
    check_fields('model', self)
    if list(self.taps) != sorted(set(self.taps)):
      raise InputError(
        f'model.taps {quote(self.taps)} must be distinct and in rising order.'
      )
    for tap in self.taps:
      if not 1 <= tap < self.depth:
        raise InputError(
          f'model.taps has {tap}, but a tap counts the blocks before its head '
          f'and must lie between 1 and depth - 1 = {self.depth - 1}.'
        )
    if 'float64' in (self.dtype, self.param_dtype):
      if jnp.result_type(float) != 'float64':
        raise InputError(
          'model.dtype float64 needs JAX_ENABLE_X64=1 in the environment.'
        )

  @property
  def convention(self) -> str:
    """Name of the network's parameterization in `dit.parameterization`."""
    return 'velocity'

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """Shape (H, W, C)."""
    return (self.size, self.size, self.channels)

  @property
  def multiply_adds(self) -> int:
    """Approximate multiply-adds of a forward pass of one example."""
    raise NotImplementedError

  @property
  def pass_multiply_adds(self) -> int:
    """Approximate multiply-adds of one example: blocks, embedders and heads."""
    return self.multiply_adds

  @property
  def fixed_values(self) -> int:
    """Number of values in fixed tables; even `shapes` computes these tables."""
    return 0

  @property
  def activation_dtype(self) -> str:
    """Type of activations, with 'auto' resolved for the default backend."""
    if self.dtype != 'auto':
      return self.dtype
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class BoundNetwork(ClassConditional):
  """A class-conditional `Denoiser`; subclasses define `predict` or `__call__`.

  Attributes:
    params: Nested dictionaries of parameters.
    config: Settings of the network.
  """

  params: Params = dataclasses.field(repr=False)
  config: NetworkConfig = dataclasses.field(metadata={'static': True})

  def __repr__(self) -> str:
    leaves = jax.tree.leaves(self.params)
    # JAX may put placeholders without a size into a tree.
    count = sum(getattr(leaf, 'size', 0) for leaf in leaves)
    return (
      f'{type(self).__name__}({self.depth} blocks, {count / 1e6:.2f} M '
      'parameters)'
    )

  @property
  def depth(self) -> int:
    """Number of blocks."""
    return self.config.depth

  @property
  def num_taps(self) -> int:
    """Number of intermediate predictions."""
    return len(self.config.taps)

  @property
  def num_classes(self) -> int:
    """Number of classes, which is also the index of the null label."""
    return self.config.num_classes

  @property
  def null_label(self) -> bool:
    """Whether the network was trained on the null label."""
    return self.config.null_label

  @property
  def multiply_adds(self) -> int:
    """Approximate multiply-adds of a forward pass of one example."""
    return self.config.multiply_adds

  @property
  def learned_variance(self) -> bool:
    """Whether the output includes a learned variance."""
    return False

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    /,
    sub: SubNetworks | None = None,
  ) -> DenoiserOutput:
    """Predicts velocities at (x, t) with the network and any sub-networks."""
    out = self.predict(x, t, condition, jnp.ones(self.depth, bool))
    if sub is None:
      return out
    x, t, condition = jax.tree.map(
      lambda leaf: leaf.reshape(-1, sub.every, *leaf.shape[1:])[:, 0],
      (x, t, condition),
    )
    subs = tuple(self.predict(x, t, condition, keep) for keep in sub.keep)
    return dataclasses.replace(out, sub=subs)

  def predict(
    self, x: jax.Array, t: jax.Array, condition: Condition, keep: jax.Array
  ) -> DenoiserOutput:
    """Predicts the velocity with only the blocks in `keep`, (L,) bool.

    `__call__` runs each sub-network from the first block. A subclass can
    override `__call__` to share the blocks before the first skipped block.
    """
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Backbone:
  """An architecture: its classes, initializer, names and sharding rules.

  Attributes:
    config: Class of the settings.
    denoiser: Class of the network with its parameters bound.
    init: Function from settings and a random key to initial parameters. Weight
      decay applies to leaves named 'kernel'.
    names: Settings for each value FAMILY-SIZE of `model.name`. The settings
      replace 0 and 'auto' in the config.
    logical_axes: Sharding rules, like `dit.sharding.LOGICAL_AXES`.
    tap_modules: Names of the parameters of the intermediate heads.
  """

  config: type[NetworkConfig]
  denoiser: type[BoundNetwork]
  init: Callable[[Any, jax.Array], Params]
  names: Mapping[str, Mapping[str, Any]]
  logical_axes: tuple[tuple[str, tuple[str, ...]], ...]
  tap_modules: tuple[str, ...] = ()

  @property
  def families(self) -> tuple[str, ...]:
    """The families: the part of each name before the first '-'."""
    return tuple(dict.fromkeys(name.partition('-')[0] for name in self.names))

  def named(self, name: str) -> Mapping[str, Any]:
    """Returns the settings of a name; raises InputError for an unknown name."""
    if name not in self.names:
      raise InputError(
        f'model.name is {quote(name)}, expected one of '
        f'{", ".join(self.names)}.{nearest(name, self.names)}'
      )
    return self.names[name]

  def name_of(self, config: Any) -> str:
    """Returns a model name for `config`; other keys must be set explicitly."""
    del config
    return next(iter(self.names))

  def check_mesh(self, mesh: Mesh, config: Any, *, zero1: bool = False) -> None:
    """Raises InputError if the mesh cannot shard the network.

    The base class never raises; axes that the mesh cannot divide are unsharded.
    """
