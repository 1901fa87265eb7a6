"""The Diffusion Transformer: tokens + positions -> blocks -> velocity.

  h = Linear(patchify(x)) + positions
  c = time_embedding(t) + label_embedding(label)
  velocity = unpatchify(head(blocks(h, c), c))

and one more head for each tap, on the hidden state after that many blocks
(SiT: Ma et al. 2024; intermediate heads: Internal Guidance, arXiv 2512.24176).
Outside this room parameters are plain nested dictionaries.
"""

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dit.blocks import first_skipped, rows, run, run_sub, stack_blocks, take
from dit.config import DiTConfig
from dit.embed import TimeEmbedder, patchify, position_table, unpatchify
from dit.layers import Dense, OutputHead
from dit.types import DenoiserOutput, SubNetworks

Params = dict[str, Any]


class DiT(nnx.Module):
  """The network; see the module's equations."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    """Creates all parameters; the output is zero at initialisation."""
    self.config = config
    param_dtype = config.param_dtype
    self.patch_embed = Dense(
      config.patch**2 * config.channels,
      config.width,
      dtype=config.activation_dtype,
      param_dtype=param_dtype,
      rngs=rngs,
    )
    # Fixed, yet a parameter: published files carry a table of their own.
    self.position = nnx.Param(
      jnp.asarray(
        position_table(config.size // config.patch, config.width), param_dtype
      )
    )
    self.time_embed = TimeEmbedder(config.width, param_dtype, rngs=rngs)
    self.label_embed = nnx.Param(
      nnx.initializers.normal(0.02)(
        rngs.params(), (config.num_classes + 1, config.width), param_dtype
      )
    )
    self.blocks = stack_blocks(config, rngs)
    self.head = OutputHead(config, rngs=rngs)
    if config.taps:
      keys = jax.random.split(rngs.params(), len(config.taps))
      self.tap_heads = jax.vmap(
        lambda key: OutputHead(config, rngs=nnx.Rngs(key))
      )(keys)
    else:
      self.tap_heads = None

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    label: jax.Array,
    sub: SubNetworks | None = None,
    keep: jax.Array | None = None,
  ) -> DenoiserOutput:
    """Predicts the velocity.

    Args:
      x: (B, H, W, C).
      t: (B,) in [0, 1].
      label: (B,) int, `num_classes` for the null label.
      sub: sub-networks to evaluate beside the pass; see `run_sub`.
      keep: (L,) bool, blocks to run in the pass itself; None for all.

    Returns:
      The predictions, float32.
    """
    config = self.config
    if x.shape[1:] != config.latent_shape:
      raise ValueError(
        f'x has shape {x.shape}, expected (B, *{config.latent_shape}).'
      )
    dtype = config.activation_dtype
    h = self.patch_embed(patchify(x.astype(dtype), config.patch))
    h = h + jax.lax.stop_gradient(self.position[...]).astype(dtype)
    c = self.time_embed(t) + self.label_embed[...][label].astype(jnp.float32)
    c = c.astype(dtype)
    forks = [first_skipped(k) for k in sub.keep] if sub is not None else []
    h, states = run(
      self.blocks,
      h,
      c,
      config=config,
      points=[*config.taps, *forks],
      keep=keep,
    )
    tapped = states[: len(config.taps)]
    output = self._predict(h, tapped, c)
    if sub is None:
      return output
    part = functools.partial(rows, every=sub.every)
    predictions = []
    for sub_keep, state in zip(sub.keep, states[len(tapped) :], strict=True):
      sub_h, sub_tapped = run_sub(
        self.blocks,
        part(state),
        part(c),
        keep=sub_keep,
        taps=config.taps,
        tapped=[part(state) for state in tapped],
      )
      predictions.append(self._predict(sub_h, sub_tapped, part(c)))
    return dataclasses.replace(output, sub=tuple(predictions))

  def _predict(self, h, tapped, c) -> DenoiserOutput:
    """Applies the heads to hidden states."""
    patch = self.config.patch
    return DenoiserOutput(
      velocity=unpatchify(self.head(h, c), patch),
      intermediate=tuple(
        unpatchify(take(self.tap_heads, k)(state, c), patch)
        for k, state in enumerate(tapped)
      ),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BoundDenoiser:
  """A `Denoiser`: parameters and the configuration that they belong to."""

  params: Params
  config: DiTConfig = dataclasses.field(metadata={'static': True})

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

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    label: jax.Array,
    sub: SubNetworks | None = None,
    keep: jax.Array | None = None,
  ) -> DenoiserOutput:
    """See `DiT.__call__`."""
    network = nnx.merge(_graph(self.config), self.params)
    return network(x, t, label, sub, keep)


def init(config: DiTConfig, key: jax.Array) -> Params:
  """Fresh parameters as nested dictionaries; jit it to place them sharded."""
  network = DiT(config, rngs=nnx.Rngs(key))
  return nnx.to_pure_dict(nnx.state(network))


def shapes(config: DiTConfig) -> Params:
  """Shapes and dtypes of the parameters; allocates nothing."""
  return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def bind(config: DiTConfig, params: Params) -> BoundDenoiser:
  """Binds parameters to the network, giving a `Denoiser`."""
  return BoundDenoiser(params, config)


def fingerprint(params: Params) -> str:
  """SHA-256 of all values, by which results name the weights they are of."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


@functools.cache
def _graph(config: DiTConfig) -> nnx.GraphDef:
  """The network without its parameters."""
  network = nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))
  return nnx.split(network)[0]
