"""Layers of a block: norms, modulation, attention, MLPs, output head.

  modulate(h, shift, scale) = h * (1 + scale) + shift
  attention                 = softmax(rotate(q) rotate(k)^T / sqrt(D / heads)) v
  gelu                      = Linear(gelu_tanh(Linear(h)))
  swiglu                    = Linear(silu(g) * v) with g, v = split(Linear(h))
  head                      = Linear(modulate(norm(h), shift, scale))

Norm statistics and the softmax are at least float32 for every dtype.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dit.config import DiTConfig
from dit.sharded_matmul import product

_EPSILON = 1e-6


class Dense(nnx.Linear):
  """A linear layer; Xavier-uniform kernel and zero bias by default.

  Attributes:
    parts: Sizes of the axes that outputs are split into; one axis by default.
    cut: Mesh axis of the inputs, then the mesh axis of each part. Kernel axes
      without a mesh axis are gathered when the layer runs.
  """

  bias: nnx.Param[jax.Array]  # never None

  def __init__(
    self,
    inputs: int,
    outputs: int,
    *,
    parts: tuple[int, ...] = (),
    cut: tuple[str | None, ...] = (),
    **kwargs: Any,
  ) -> None:
    kwargs.setdefault('kernel_init', nnx.initializers.xavier_uniform())
    super().__init__(inputs, outputs, **kwargs)
    self.parts, self.cut = parts or (outputs,), cut

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """(..., inputs) -> (..., *parts)."""
    del out_sharding  # only meshes with explicit axes need this
    x = inputs.astype(self.dtype)
    # On CPU, XLA takes up to twice as long for a 3-D input as for a 2-D input.
    rows = x.reshape(-1, x.shape[-1])
    y = product(rows, self.kernel[...], self.parts, self.cut)
    y = checkpoint_name(y, 'product')  # saved if model.remat=dots
    y += self.bias[...].astype(self.dtype).reshape(self.parts)
    return y.reshape(*inputs.shape[:-1], *self.parts)


def wide(dtype: str | jax.typing.DTypeLike) -> jnp.dtype:
  """Promotes a type to at least float32, for example for norm statistics."""
  return jnp.promote_types(dtype, jnp.float32)


def layer_norm(h: jax.Array, epsilon: float = _EPSILON) -> jax.Array:
  """Normalizes the last axis without gain, in float32."""
  h32 = h.astype(wide(h.dtype))
  centered = h32 - h32.mean(-1, keepdims=True)
  variance = jnp.square(centered).mean(-1, keepdims=True)
  return (centered * jax.lax.rsqrt(variance + epsilon)).astype(h.dtype)


class RMSNorm(nnx.Module):
  """h / rms(h) over the last axis, times a gain."""

  def __init__(self, width: int, param_dtype: str) -> None:
    self.scale = nnx.Param(jnp.ones(width, param_dtype))

  def __call__(self, h: jax.Array) -> jax.Array:
    """(..., width) -> (..., width), in float32 except for the gain."""
    h32 = h.astype(wide(h.dtype))
    square = jnp.square(h32).mean(-1, keepdims=True)
    output = (h32 * jax.lax.rsqrt(square + _EPSILON)).astype(h.dtype)
    return output * self.scale[...].astype(h.dtype)


class LayerNorm(nnx.Module):
  """timm's norm of queries and keys, with gain, bias and epsilon 1e-5."""

  def __init__(self, width: int, param_dtype: str) -> None:
    self.scale = nnx.Param(jnp.ones(width, param_dtype))
    self.bias = nnx.Param(jnp.zeros(width, param_dtype))

  def __call__(self, h: jax.Array) -> jax.Array:
    """(..., width) -> (..., width), in float32."""
    output = layer_norm(h.astype(wide(h.dtype)), epsilon=1e-5)
    return (output * self.scale[...] + self.bias[...]).astype(h.dtype)


def token_norm(config: DiTConfig) -> Callable[[jax.Array], jax.Array]:
  """Returns the norm that precedes attention, the MLP and the output heads."""
  if config.norm == 'rmsnorm':
    return RMSNorm(config.width, config.param_dtype)
  return layer_norm


def head_norm(config: DiTConfig) -> nnx.Module | None:
  """Returns the norm of queries or keys over a head's width, or None."""
  if config.qk_norm == 'none':
    return None
  norm = {'layernorm': LayerNorm, 'rmsnorm': RMSNorm}[config.qk_norm]
  return norm(config.head_width, config.param_dtype)


def rotate(h: jax.Array, rotary: jax.Array) -> jax.Array:
  """Rotates pairs of adjacent channels by each token's angles, in float32.

  Args:
    h: (B, heads, N, head width).
    rotary: (2, N, head width), cosines and sines; both entries of a pair agree.
  """
  cos, sin = rotary.astype(wide(h.dtype))
  even, odd = h[..., ::2], h[..., 1::2]
  rotation = jnp.stack([-odd, even], axis=-1).reshape(h.shape)
  return (h * cos + rotation * sin).astype(h.dtype)


def modulate(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """Applies shift and scale (B, D) to h (B, N, D)."""
  return h * (1 + scale[:, None]) + shift[:, None]


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  kind: Literal['xla', 'cudnn'] = 'xla',
) -> jax.Array:
  """Returns softmax(q k^T / sqrt(head width)) v.

  q, k, v and the result are (B, heads, N, head width). 'cudnn' uses
  `jax.nn.dot_product_attention`. 'xla' uses `jnp.einsum`, and divides by the
  sum of the attention weights after the multiplication by v.
  """
  if kind != 'xla':
    q, k, v = (array.swapaxes(1, 2) for array in (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, implementation=kind)
    return out.swapaxes(1, 2)
  logits = jnp.einsum(
    'bhnd,bhmd->bhnm', q, k, preferred_element_type=wide(q.dtype)
  )
  logits *= q.shape[-1] ** -0.5
  largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
  weights = jnp.exp(logits - largest)
  out = jnp.einsum(
    'bhnm,bhmd->bhnd',
    weights.astype(v.dtype),
    v,
    preferred_element_type=weights.dtype,
  )
  return (out / weights.sum(-1, keepdims=True)).astype(v.dtype)


class Attention(nnx.Module):
  """Self-attention over all tokens."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    self.qkv = Dense(
      config.width,
      3 * config.width,
      parts=(3, config.num_heads, config.head_width),
      cut=(None, None, 'tensor'),
      rngs=rngs,
      **dtypes(config),
    )
    self.proj = Dense(
      config.width, config.width, cut=('tensor',), rngs=rngs, **dtypes(config)
    )
    self.q_norm, self.k_norm = (head_norm(config) for _ in range(2))
    self.kind = config.attention_here

  def __call__(
    self, h: jax.Array, rotary: jax.Array | None = None
  ) -> jax.Array:
    """(B, N, D) -> (B, N, D); see `rotate` for `rotary`."""
    b, n, d = h.shape
    # (B, N, 3, heads, head width) -> three arrays (B, heads, N, head width). On
    # CPU, XLA transposes the whole qkv slowly, so the split comes first.
    qkv = self.qkv(h)
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    if self.q_norm is not None and self.k_norm is not None:
      q, k = self.q_norm(q), self.k_norm(k)
    if rotary is not None:
      q, k = rotate(q, rotary), rotate(k, rotary)
    out = attend(q, k, v, self.kind).transpose(0, 2, 1, 3)
    return self.proj(out.reshape(b, n, d))


class Mlp(nnx.Module):
  """Two linear layers, with tanh-GELU or a gate (SwiGLU) between them."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    self.gated = config.mlp == 'swiglu'
    hidden, width = config.hidden, config.width
    parts = 1 + self.gated
    self.fc1 = Dense(
      width,
      parts * hidden,
      parts=(parts, hidden),
      cut=(None, None, 'tensor'),
      rngs=rngs,
      **dtypes(config),
    )
    self.fc2 = Dense(
      hidden, width, cut=('tensor',), rngs=rngs, **dtypes(config)
    )

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, N, D) -> (B, N, D)."""
    gate, *value = jnp.moveaxis(self.fc1(h), -2, 0)
    if self.gated:
      return self.fc2(jax.nn.silu(gate) * value[0])
    return self.fc2(jax.nn.gelu(gate, approximate=True))


class OutputHead(nnx.Module):
  """Maps tokens to predicted patches; zero at initialization (adaLN-zero)."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    outputs = config.patch**2 * config.out_channels
    self.norm = token_norm(config)
    self.modulation = Dense(
      config.width,
      2 * config.width,
      kernel_init=nnx.initializers.zeros,
      rngs=rngs,
      **dtypes(config),
    )
    # Predictions are at least float32, since losses and solvers use float32.
    self.proj = Dense(
      config.width,
      outputs,
      kernel_init=nnx.initializers.zeros,
      dtype=wide(config.activation_dtype),
      param_dtype=config.param_dtype,
      rngs=rngs,
    )

  def __call__(self, h: jax.Array, c: jax.Array) -> jax.Array:
    """(B, N, D) and (B, D) -> (B, N, patch * patch * out_channels)."""
    shift, scale = jnp.split(self.modulation(jax.nn.silu(c)), 2, axis=-1)
    return self.proj(modulate(self.norm(h), shift, scale))


def dtypes(config: DiTConfig) -> dict[str, Any]:
  """Returns the dtype arguments of a `Dense` layer inside the network."""
  return {
    'dtype': config.activation_dtype,
    'param_dtype': config.param_dtype,
  }
