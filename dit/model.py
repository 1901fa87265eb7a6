"""The Diffusion Transformer: tokens + positions -> blocks -> velocity.

  h = Linear(patchify(x)) + positions
  c = time_embedding(t) + label_embedding(label)
  prediction = unpatchify(head(blocks(h, c), c))

A tap k adds a head after the first k blocks: an output layer, or one more block
and an output layer (`tap_head='block'`, as in SSG, arXiv 2607.29122). `DiT` has
the time variable and prediction target of one convention in
`dit.parameterization`; `BoundDenoiser` converts both to t (0 = data, 1 = noise)
and velocity. Parameters are nested dictionaries. Sources: DiT (Peebles & Xie
2023), SiT (Ma et al. 2024), and Internal Guidance (arXiv 2512.24176) for taps.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from core.errors import InputError
from dit import parameterization
from dit.base import Backbone, BoundNetwork, Params
from dit.blocks import (
  Block,
  first_skipped,
  rows,
  run,
  run_sub,
  stack_blocks,
  take,
)
from dit.config import FAMILIES, SIZES, DiTConfig, name_of, named_size
from dit.embed import (
  TimeEmbedder,
  patchify,
  position_table,
  rotary_table,
  unpatchify,
)
from dit.layers import Dense, OutputHead, wide
from dit.sharding import LOGICAL_AXES, check_model, constrain, constrain_batch
from dit.types import DenoiserOutput, SubNetworks


class DiT(nnx.Module):
  """The network, with zero output at initialization."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    self.config = config
    param_dtype = config.param_dtype
    self.patch_embed = Dense(
      config.patch**2 * config.channels,
      config.width,
      dtype=config.activation_dtype,
      param_dtype=param_dtype,
      rngs=rngs,
    )
    # Fixed tables are parameters, since published files contain these tables.
    side = config.size // config.patch
    self.position = nnx.Param(
      jnp.asarray(position_table(side, config.width), param_dtype)
    )
    if config.rope:
      self.rotary: nnx.Param[jax.Array] | None = nnx.Param(
        jnp.asarray(rotary_table(side, config.head_width), param_dtype)
      )
    else:
      self.rotary = None
    self.time_embed = TimeEmbedder(config, rngs=rngs)
    self.label_embed = nnx.Param(
      nnx.initializers.normal(0.02)(
        rngs.params(),
        (config.num_classes + config.null_label, config.width),
        param_dtype,
      )
    )
    self.blocks = stack_blocks(config, rngs, config.depth)
    self.head = OutputHead(config, rngs=rngs)
    if config.taps:
      keys = jax.random.split(rngs.params(), len(config.taps))
      self.tap_heads: OutputHead | None = jax.vmap(
        lambda key: OutputHead(config, rngs=nnx.Rngs(key))
      )(keys)
    else:
      self.tap_heads = None
    if config.taps and config.tap_head == 'block':
      count = len(config.taps)
      self.tap_blocks: Block | None = stack_blocks(config, rngs, count)
    else:
      self.tap_blocks = None

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    label: jax.Array,
    sub: SubNetworks | None = None,
    keep: jax.Array | None = None,
    points: tuple[int, ...] = (),
  ) -> DenoiserOutput:
    """Returns float32 predictions in the network's convention.

    Args:
      x: (B, H, W, C).
      t: (B,), the network's time.
      label: (B,) int, `num_classes` for the null label.
      sub: Sub-networks to evaluate in addition; see `run_sub`.
      keep: (L,) bool, blocks to run in the main pass; None for all.
      points: Integers k; each requests the hidden state after k blocks.

    Raises:
      InputError: if x does not have the shape of the network's latents.
    """
    config = self.config
    if x.shape[1:] != config.latent_shape:
      raise InputError(
        f'the network takes square latents (B, H, W, C) = '
        f'(B, {str(config.latent_shape)[1:]}, but x has shape {x.shape}; '
        'resize or crop it, or set model.size and model.channels.'
      )
    dtype = config.activation_dtype
    h = self.patch_embed(patchify(x.astype(dtype), config.patch))
    h = h + jax.lax.stop_gradient(self.position[...]).astype(dtype)
    rotary = None
    if self.rotary is not None:
      rotary = jax.lax.stop_gradient(self.rotary[...])
    table = constrain(self.label_embed[...])  # gathered before the lookup
    c = self.time_embed(t) + table[label].astype(wide(dtype))
    h, c = constrain_batch(h), constrain_batch(c.astype(dtype))
    forks = [first_skipped(k) for k in sub.keep] if sub is not None else []
    h, states = run(
      self.blocks,
      h,
      c,
      rotary,
      config=config,
      points=[*config.taps, *points, *forks],
      keep=keep,
    )
    tapped, states = states[: len(config.taps)], states[len(config.taps) :]
    output = dataclasses.replace(
      self._predict(h, tapped, c, rotary), hidden=states[: len(points)]
    )
    if sub is None:
      return output
    part = functools.partial(rows, every=sub.every)
    predictions = []
    for sub_keep, state in zip(sub.keep, states[len(points) :], strict=True):
      sub_h, sub_tapped = run_sub(
        self.blocks,
        part(state),
        part(c),
        rotary,
        keep=sub_keep,
        taps=config.taps,
        tapped=[part(state) for state in tapped],
      )
      predictions.append(self._predict(sub_h, sub_tapped, part(c), rotary))
    return dataclasses.replace(output, sub=tuple(predictions))

  def _predict(
    self,
    h: jax.Array,
    tapped: Sequence[jax.Array],
    c: jax.Array,
    rotary: jax.Array | None,
  ) -> DenoiserOutput:
    config = self.config
    prediction = unpatchify(self.head(h, c), config.patch)
    intermediate = []
    for k, state in enumerate(tapped):
      assert self.tap_heads is not None
      if self.tap_blocks is not None:
        state = take(self.tap_blocks, k)(state, c, rotary)
      tokens = take(self.tap_heads, k)(state, c)
      intermediate.append(unpatchify(tokens, config.patch))
    return DenoiserOutput(
      velocity=prediction[..., : config.channels],
      intermediate=tuple(p[..., : config.channels] for p in intermediate),
      variance=prediction[..., config.channels :]
      if config.learned_variance
      else None,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class BoundDenoiser(BoundNetwork):
  """The network with its parameters, a `Denoiser`."""

  config: DiTConfig = dataclasses.field(metadata={'static': True})

  @property
  def learned_variance(self) -> bool:
    """Whether the output has a learned variance; needs convention 'noise'."""
    return self.config.learned_variance and self.config.convention == 'noise'

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    label: jax.Array,
    /,
    sub: SubNetworks | None = None,
    keep: jax.Array | None = None,
    points: tuple[int, ...] = (),
  ) -> DenoiserOutput:
    """Predicts velocities at our time t, (B,) in [0, 1]; see `DiT`."""
    network = nnx.merge(_graph(self.config), self.params)
    time = parameterization.network_time(self.config.convention, t)
    out = network(x, time, label, sub, keep, points)
    return self._translate(out, x, t, sub.every if sub is not None else 1)

  def _translate(
    self, out: DenoiserOutput, x: jax.Array, t: jax.Array, every: int
  ) -> DenoiserOutput:
    sub_x, sub_t = rows(x, every), rows(t, every)

    def translate(prediction):
      name, min_time = self.config.convention, self.config.min_time
      return parameterization.velocity(name, prediction, x, t, min_time)

    return DenoiserOutput(
      velocity=translate(out.velocity),
      intermediate=tuple(map(translate, out.intermediate)),
      # If a network predicts velocities, its variance outputs are untrained.
      variance=out.variance if self.learned_variance else None,
      sub=tuple(self._translate(s, sub_x, sub_t, 1) for s in out.sub),
      hidden=out.hidden,
    )


def init(config: DiTConfig, key: jax.Array) -> Params:
  """Returns initial parameters, which `jax.jit` can create in sharded form."""
  network = DiT(config, rngs=nnx.Rngs(key))
  return nnx.to_pure_dict(nnx.state(network))


@functools.cache
def shapes(config: DiTConfig) -> Params:
  """Returns the parameters' shapes and dtypes without allocating them."""
  return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def bind(config: DiTConfig, params: Params) -> BoundDenoiser:
  """Returns the network with these parameters."""
  return BoundDenoiser(params, config)


def fingerprint(params: Params) -> str:
  """Returns the SHA-256 of all values, which identifies weights in results."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(on_host(leaf)).tobytes())
  return digest.hexdigest()


def on_host(leaf: jax.Array) -> np.ndarray:
  """Gathers an array from all processes, which must all call this function."""
  if not getattr(leaf, 'is_fully_addressable', True):
    leaf = multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)


@functools.cache
def _graph(config: DiTConfig) -> nnx.GraphDef:
  network = nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))
  return nnx.split(network)[0]


class _DiTBackbone(Backbone):
  """The transformer's backbone; names are FAMILY-SIZE/PATCH, with any PATCH."""

  def named(self, name: str) -> Mapping[str, Any]:
    return named_size(name)

  def name_of(self, config: DiTConfig) -> str:
    return name_of(config)

  def check_mesh(
    self, mesh: Mesh, config: DiTConfig, *, zero1: bool = False
  ) -> None:
    check_model(mesh, config, zero1=zero1)


BACKBONE = _DiTBackbone(
  config=DiTConfig,
  denoiser=BoundDenoiser,
  init=init,
  names={
    name: named_size(name)
    for name in (f'{family}-{size}/2' for family in FAMILIES for size in SIZES)
  },
  logical_axes=LOGICAL_AXES,
  tap_modules=('tap_heads', 'tap_blocks'),
)
