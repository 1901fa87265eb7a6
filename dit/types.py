"""The types at which the rooms meet.

Axis letters, used in every shape comment of the project:

  B batch    N tokens    D width    H W C latent    K taps    L depth

Time `t` runs from 0 (data) to 1 (noise); the network predicts `velocity`,
dx_t/dt. Labels are class indices; `num_classes` itself is the null label.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

# A pytree of arrays with leading axis B: class labels (B,), an encoded prompt.
# Only the denoiser that it is made for looks inside.
Condition = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubNetworks:
  """Sub-networks to evaluate beside a full pass, on some of its rows.

  Attributes:
    keep: (M, L) bool, which blocks run in each of the M sub-networks.
    every: the sub-networks see rows 0, every, 2 * every, ... of the batch.
  """

  keep: jax.Array
  every: int = dataclasses.field(default=1, metadata={'static': True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenoiserOutput:
  """All predictions of one pass.

  Attributes:
    velocity: (B, H, W, C) float32, the prediction after the last block.
    intermediate: K arrays (B, H, W, C), one for each tap, shallow to deep.
    variance: (B, H, W, C), of a network that learned it (DiT): about -1 to 1,
      see `sample.ddpm`; else None.
    sub: one output for each sub-network that was asked for, on its rows.
    hidden: (B, N, D), the states after the blocks that were asked for.
  """

  velocity: jax.Array
  intermediate: tuple[jax.Array, ...] = ()
  variance: jax.Array | None = None
  sub: tuple['DenoiserOutput', ...] = ()
  hidden: tuple[jax.Array, ...] = ()


class Denoiser(Protocol):
  """A network with its parameters bound: pure, and free of random keys.

  For example `out = denoiser(x, t, condition)` with x (B, H, W, C), t (B,) and
  class labels (B,) as the condition gives `out.velocity` (B, H, W, C).
  """

  @property
  def depth(self) -> int:
    """Number of blocks."""

  @property
  def num_taps(self) -> int:
    """Number of intermediate predictions."""

  @property
  def num_classes(self) -> int:
    """Number of classes; also the null label."""

  @property
  def null_label(self) -> bool:
    """Returns whether it knows the null label."""

  @property
  def learned_variance(self) -> bool:
    """Returns whether outputs have a variance."""

  @property
  def multiply_adds(self) -> int:
    """The approximate number of multiply-adds of a pass of one row."""

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    /,
    sub: SubNetworks | None = None,
  ) -> DenoiserOutput:
    """Predicts the velocity at (x, t), of the whole and of sub-networks."""

  def null_condition(self, condition: Condition) -> Condition:
    """Returns as many null conditions as `condition` has rows."""

  def random_condition(
    self, condition: Condition, keys: jax.Array
  ) -> Condition:
    """Returns unrelated conditions, row i by the random key `keys[i]`."""


class ClassConditional:
  """Conditions that are class labels, (B,) int; a base of denoisers."""

  @property
  def num_classes(self) -> int:
    """Number of classes; also the null label."""
    raise NotImplementedError

  def null_condition(self, condition: jax.Array) -> jax.Array:
    """Returns null labels."""
    return jnp.full_like(condition, self.num_classes)

  def random_condition(
    self, condition: jax.Array, keys: jax.Array
  ) -> jax.Array:
    """Returns random labels, which do not depend on those of `condition`."""
    del condition
    return jax.vmap(
      lambda key: jax.random.randint(key, (), 0, self.num_classes, jnp.int32)
    )(keys)
