"""A backbone: what train, sample, evaluate and distill need from a network.

Three parts, in one file per backbone (docs/extending.md has a second one):

  NetworkConfig   settings, a frozen dataclass
  BoundNetwork    the network with its parameters: a `Denoiser`
  Backbone        both of them, how to make parameters, and how to shard them

`dit.backbone` lists the backbones and calls the one that a config belongs to.
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
  """Settings that every network has; a base of frozen dataclasses.

  The section `model` of a config sets the fields. Those that are added later
  need a default, which older runs get.

  Attributes:
    size: Height and width of the latent.
    channels: Channels C of the latent.
    num_classes: Classes; the null label, if any, is `num_classes`.
    depth: Blocks L that guidance can skip; 1 where it can skip none.
    taps: Numbers of blocks, counted from 1, after which an intermediate
      prediction is read, shallow to deep; () for none.
    null_label: Whether the label `num_classes` was trained.
    dtype: Type of activations; 'auto' is bfloat16 on accelerators, else
      float32; 'float64', for parity checks, needs jax_enable_x64.
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
    """Checks every field against its declaration, and the taps."""
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
    """What the network itself predicts; see `dit.parameterization`."""
    return 'velocity'

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return (self.size, self.size, self.channels)

  @property
  def multiply_adds(self) -> int:
    """The approximate number of multiply-adds of a pass of one row."""
    raise NotImplementedError

  @property
  def pass_multiply_adds(self) -> int:
    """The same with embedders and heads, where they are counted apart."""
    return self.multiply_adds

  @property
  def fixed_values(self) -> int:
    """Number of values in tables that `init` computes even for shapes alone."""
    return 0

  @property
  def activation_dtype(self) -> str:
    """`dtype` with 'auto' resolved for the default backend."""
    if self.dtype != 'auto':
      return self.dtype
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BoundNetwork(ClassConditional):
  """A class-conditional `Denoiser`; subclasses have `predict` or `__call__`.

  Attributes:
    params: Parameters, nested dictionaries.
    config: Settings that the parameters belong to.
  """

  params: Params
  config: NetworkConfig = dataclasses.field(metadata={'static': True})

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
    """Number of classes; also the null label."""
    return self.config.num_classes

  @property
  def null_label(self) -> bool:
    """Returns whether the network knows the null label."""
    return self.config.null_label

  @property
  def multiply_adds(self) -> int:
    """The approximate number of multiply-adds of a pass of one row."""
    return self.config.multiply_adds

  @property
  def learned_variance(self) -> bool:
    """Returns whether outputs have a variance."""
    return False

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    /,
    sub: SubNetworks | None = None,
  ) -> DenoiserOutput:
    """Predicts the velocity at (x, t), of the whole and of sub-networks."""
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
    """Predicts the velocity with the blocks in `keep`, (L,) bool.

    Sub-networks are computed from their first block on; a subclass that shares
    the blocks before the first skipped one replaces `__call__`.
    """
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A kind of network.

  Attributes:
    config: Class of its settings.
    denoiser: Class of the network with its parameters bound.
    init: Function of settings and a random key that returns fresh parameters.
      Leaves named 'kernel' have weight decay.
    names: Values of `model.name` that select it, FAMILY-SIZE, and the settings
      that each of them fixes where the config has 0 or 'auto'.
    logical_axes: Sharding rules, as `dit.sharding.LOGICAL_AXES`.
  """

  config: type[NetworkConfig]
  denoiser: type[BoundNetwork]
  init: Callable[[Any, jax.Array], Params]
  names: Mapping[str, Mapping[str, Any]]
  logical_axes: tuple[tuple[str, tuple[str, ...]], ...]

  @property
  def families(self) -> tuple[str, ...]:
    """Parts of the names before the first '-'."""
    return tuple(dict.fromkeys(name.partition('-')[0] for name in self.names))

  def named(self, name: str) -> Mapping[str, Any]:
    """Returns the settings that a name fixes; InputError if it is unknown."""
    if name not in self.names:
      raise InputError(
        f'model.name is {quote(name)}, expected one of '
        f'{", ".join(self.names)}.{nearest(name, self.names)}'
      )
    return self.names[name]

  def name_of(self, config: Any) -> str:
    """Returns a name that, with all other keys set, gives `config`."""
    del config
    return next(iter(self.names))

  def check_mesh(self, mesh: Mesh, config: Any, *, zero1: bool = False) -> None:
    """Raises InputError unless the network divides over the mesh.

    Parameters that do not divide stay whole, so by default all of them do.
    """
