"""Types shared by all packages.

Axis letters in every shape comment of the project:

  B batch    N tokens    D width    H W C latent    K taps    L depth

Time `t` runs from 0 (data) to 1 (noise); the network predicts `velocity`,
dx_t/dt. Labels are class indices; the null label is the index `num_classes`.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

# A pytree of arrays with leading axis B, such as class labels (B,) or encoded
# prompts. Only the denoiser reads the arrays.
Condition = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubNetworks:
  """Sub-networks to evaluate with a full pass, on a part of its batch.

  Attributes:
    keep: (M, L) bool, the blocks that run in each of M sub-networks.
    every: Stride; sub-networks get the batch rows 0, `every`, 2 * `every`, ...
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
    variance: (B, H, W, C), about -1 to 1; `sample.ddpm` converts it to a
      variance. None if the network learned no variance.
    sub: One output per sub-network, for batch rows 0, `every`, 2 * `every`, ...
    hidden: Requested hidden states, each (B, N, D).
  """

  velocity: jax.Array
  intermediate: tuple[jax.Array, ...] = ()
  variance: jax.Array | None = None
  sub: tuple['DenoiserOutput', ...] = ()
  hidden: tuple[jax.Array, ...] = ()


class Denoiser(Protocol):
  """A network with its parameters, as a deterministic function.

  `denoiser(x, t, condition)` takes x (B, H, W, C), t (B,) and, for example,
  class labels (B,). `velocity` of the output is (B, H, W, C).
  """

  @property
  def depth(self) -> int:
    """Number of blocks."""

  @property
  def num_taps(self) -> int:
    """Number of intermediate predictions."""

  @property
  def num_classes(self) -> int:
    """Number of classes, which is also the index of the null label."""

  @property
  def null_label(self) -> bool:
    """Whether the network was trained on the null label."""

  @property
  def learned_variance(self) -> bool:
    """Whether the output includes a learned variance."""

  @property
  def multiply_adds(self) -> int:
    """Approximate multiply-adds of a forward pass of one example."""

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    /,
    sub: SubNetworks | None = None,
  ) -> DenoiserOutput:
    """Predicts velocities at (x, t) with the network and any sub-networks."""

  def null_condition(self, condition: Condition) -> Condition:
    """Returns one null condition for each row of `condition`."""

  def random_condition(
    self, condition: Condition, keys: jax.Array
  ) -> Condition:
    """Samples conditions independent of `condition`; row i uses `keys[i]`."""


class ClassConditional:
  """A base class of denoisers conditioned on class labels, (B,) int."""

  @property
  def num_classes(self) -> int:
    """Number of classes, which is also the index of the null label."""
    raise NotImplementedError

  def null_condition(self, condition: jax.Array) -> jax.Array:
    """Returns null labels."""
    return jnp.full_like(condition, self.num_classes)

  def random_condition(
    self, condition: jax.Array, keys: jax.Array
  ) -> jax.Array:
    """Samples labels independent of `condition`."""
    del condition
    return jax.vmap(
      lambda key: jax.random.randint(key, (), 0, self.num_classes, jnp.int32)
    )(keys)
