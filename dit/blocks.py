"""The transformer block (adaLN-zero) and the stack of blocks.

One block, with c the conditioning vector (Peebles & Xie 2023, section 3.2):

  shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = Linear(silu(c))
  h <- h + gate_1 * attention(modulate(norm(h), shift_1, scale_1))
  h <- h + gate_2 * mlp(modulate(norm(h), shift_2, scale_2))

The shifts are absent if `config.shift` is false.

The parameters of all blocks are stacked (leading axis L) and scanned. The
scan's carry includes requested hidden states (`points`), since this uses the
least memory. A sub-network skips some blocks. Before the first skipped block,
the sub-network equals the full network, so `run_sub` starts at this block.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dit.config import DiTConfig
from dit.layers import Attention, Dense, Mlp, dtypes, modulate, token_norm
from dit.sharding import constrain_batch

_POLICIES = {
  'full': None,
  'dots': jax.checkpoint_policies.save_only_these_names('product'),
}


class Block(nnx.Module):
  """One transformer block; the identity at initialization (adaLN-zero)."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    self.norm_1 = token_norm(config)
    self.attention = Attention(config, rngs=rngs)
    self.norm_2 = token_norm(config)
    self.mlp = Mlp(config, rngs=rngs)
    self.shift = config.shift
    self.modulation = Dense(
      config.width,
      (6 if config.shift else 4) * config.width,
      kernel_init=nnx.initializers.zeros,
      cut=(None, 'tensor'),
      rngs=rngs,
      **dtypes(config),
    )

  def __call__(
    self, h: jax.Array, c: jax.Array, rotary: jax.Array | None = None
  ) -> jax.Array:
    """(B, N, D) and conditioning (B, D) -> (B, N, D)."""
    # (B, 6D) or (B, 4D), gathered because shards do not match the split below.
    modulation = constrain_batch(self.modulation(jax.nn.silu(c)))
    if self.shift:
      shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(
        modulation, 6, axis=-1
      )
    else:
      scale_1, gate_1, scale_2, gate_2 = jnp.split(modulation, 4, axis=-1)
      shift_1 = shift_2 = jnp.zeros_like(scale_1)
    h = h + gate_1[:, None] * self.attention(
      modulate(self.norm_1(h), shift_1, scale_1), rotary
    )
    return h + gate_2[:, None] * self.mlp(
      modulate(self.norm_2(h), shift_2, scale_2)
    )


def stack_blocks(config: DiTConfig, rngs: nnx.Rngs, count: int) -> Block:
  """Returns `count` blocks as one `Block` with a leading axis."""
  keys = jax.random.split(rngs.params(), count)
  return jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)


def take(stacked: nnx.Module, index: int | jax.Array) -> nnx.Module:
  """Returns module `index` of a stack."""
  return jax.tree.map(lambda leaf: leaf[index], stacked)


def run(
  blocks: Block,
  h: jax.Array,
  c: jax.Array,
  rotary: jax.Array | None = None,
  *,
  config: DiTConfig,
  points: Sequence[int | jax.Array] = (),
  keep: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Runs all blocks, or only the blocks in `keep`, on a batch of tokens.

  Args:
    blocks: Stacked blocks.
    h: (B, N, D) tokens.
    c: (B, D) conditioning.
    rotary: Cosines and sines for `layers.rotate`.
    config: Settings of the network, such as `scan` and `remat`.
    points: Integers k, possibly traced. Each k requests the hidden state after
      the first k blocks.
    keep: (L,) bool, blocks to run; None for all. Skipped blocks cost nothing.

  Returns:
    (B, N, D) after the last block, and the hidden state at each point.
  """

  def body(carry, indexed):
    h, states = carry
    index, block = indexed
    h = constrain_batch(h)
    if keep is None:
      h = block(h, c, rotary)
    else:
      h = jax.lax.cond(
        keep[index], lambda h: block(h, c, rotary), lambda h: h, h
      )
    states = tuple(
      jnp.where(index + 1 == point, h, state)
      for point, state in zip(points, states, strict=True)
    )
    return (h, states), None

  if config.remat != 'none':
    body = jax.checkpoint(
      body, policy=_POLICIES[config.remat], prevent_cse=not config.scan
    )
  carry = (h, (h,) * len(points))
  if config.scan:
    carry, _ = jax.lax.scan(body, carry, (jnp.arange(config.depth), blocks))
  else:
    for index in range(config.depth):
      carry, _ = body(carry, (index, take(blocks, index)))
  return carry


def first_skipped(keep: jax.Array) -> jax.Array:
  """Returns the number of blocks before the first skipped block, a scalar."""
  return jnp.where(keep.all(), keep.size, jnp.argmin(keep))


def run_sub(
  blocks: Block,
  h: jax.Array,
  c: jax.Array,
  rotary: jax.Array | None = None,
  *,
  keep: jax.Array,
  taps: Sequence[int],
  tapped: Sequence[jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Runs a sub-network from its first skipped block.

  The loop length depends on `keep`, so `run_sub` has no reverse-mode gradient.
  `h` is the hidden state (B, N, D) after `first_skipped(keep)` blocks of the
  full pass. Each tap k in `taps` requests the hidden state after the first k
  blocks. `tapped` are the hidden states (B, N, D) of the full pass at the taps.
  `run` explains the other arguments.

  Returns:
    (B, N, D) after the last block, and the hidden states at the taps.
  """
  first = first_skipped(keep)
  order = jnp.argsort(~keep, stable=True)  # lists the kept blocks first
  states = tuple(
    jnp.where(tap <= first, state, h)
    for tap, state in zip(taps, tapped, strict=True)
  )

  def body(i, carry):
    h, states = carry
    h = take(blocks, order[i])(h, c, rotary)
    states = tuple(
      jnp.where(order[i] < tap, h, state)
      for tap, state in zip(taps, states, strict=True)
    )
    return h, states

  return jax.lax.fori_loop(first, keep.sum(), body, (h, states))


def rows(x: jax.Array, every: int, start: int = 0) -> jax.Array:
  """Returns rows start, start + every, ...; the batch stays sharded."""
  return x.reshape(-1, every, *x.shape[1:])[:, start]
