"""Layers of a block: norm, modulation, attention, MLP, output head.

  modulate(h, shift, scale) = h * (1 + scale) + shift
  attention                 = softmax(q k^T / sqrt(D / heads)) v
  mlp                       = Linear(gelu_tanh(Linear(h)))
  head                      = Linear(modulate(norm(h), shift, scale))

Statistics of the norms and the softmax are float32 in every precision.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from dit.config import DiTConfig

_EPSILON = 1e-6


class Dense(nnx.Linear):
  """A linear layer, Xavier-uniform with zero bias unless told otherwise."""

  def __init__(self, inputs: int, outputs: int, **kwargs) -> None:
    """As nnx.Linear."""
    kwargs.setdefault('kernel_init', nnx.initializers.xavier_uniform())
    super().__init__(inputs, outputs, **kwargs)

  def __call__(self, inputs: jax.Array, out_sharding=None) -> jax.Array:
    """(..., inputs) -> (..., outputs)."""
    # XLA's CPU backend is up to twice as slow at 3-D by 2-D products.
    flat = inputs.reshape(-1, inputs.shape[-1])
    flat = super().__call__(flat, out_sharding)
    return flat.reshape(*inputs.shape[:-1], -1)


def layer_norm(h: jax.Array, epsilon: float = _EPSILON) -> jax.Array:
  """Normalises the last axis, without gain, computed in float32."""
  h32 = h.astype(jnp.float32)
  centred = h32 - h32.mean(-1, keepdims=True)
  variance = jnp.square(centred).mean(-1, keepdims=True)
  return (centred * jax.lax.rsqrt(variance + epsilon)).astype(h.dtype)


def modulate(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """(B, N, D) with shift and scale (B, D)."""
  return h * (1 + scale[:, None]) + shift[:, None]


class HeadNorm(nnx.Module):
  """LayerNorm with gain and bias over a head's width (timm's qk-norm)."""

  def __init__(self, width: int, param_dtype: str) -> None:
    """Creates gain 1 and bias 0, both (width,)."""
    self.scale = nnx.Param(jnp.ones(width, param_dtype))
    self.bias = nnx.Param(jnp.zeros(width, param_dtype))

  def __call__(self, h: jax.Array) -> jax.Array:
    """(..., width) -> the same, computed in float32."""
    normed = layer_norm(h.astype(jnp.float32), epsilon=1e-5)
    return (normed * self.scale[...] + self.bias[...]).astype(h.dtype)


class Attention(nnx.Module):
  """Self-attention over all tokens."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    """Creates one fused projection to q, k, v and the output projection."""
    self.num_heads = config.num_heads
    self.qkv = Dense(
      config.width, 3 * config.width, rngs=rngs, **dtypes(config)
    )
    self.proj = Dense(config.width, config.width, rngs=rngs, **dtypes(config))
    if config.qk_norm == 'layernorm':
      head_width = config.width // config.num_heads
      self.q_norm = HeadNorm(head_width, config.param_dtype)
      self.k_norm = HeadNorm(head_width, config.param_dtype)
    else:
      self.q_norm = self.k_norm = None

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, N, D) -> (B, N, D)."""
    b, n, d = h.shape
    qkv = self.qkv(h).reshape(b, n, 3, self.num_heads, -1)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each (B, heads, N, head width)
    if self.q_norm is not None:
      q, k = self.q_norm(q), self.k_norm(k)
    logits = jnp.einsum(
      'bhnd,bhmd->bhnm', q, k, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5).astype(v.dtype)
    out = jnp.einsum('bhnm,bhmd->bhnd', weights, v)
    return self.proj(out.transpose(0, 2, 1, 3).reshape(b, n, d))


class Mlp(nnx.Module):
  """Two linear layers with a tanh-GELU between them."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    """Creates the layers."""
    hidden = int(config.width * config.mlp_ratio)
    self.fc1 = Dense(config.width, hidden, rngs=rngs, **dtypes(config))
    self.fc2 = Dense(hidden, config.width, rngs=rngs, **dtypes(config))

  def __call__(self, h: jax.Array) -> jax.Array:
    """(B, N, D) -> (B, N, D)."""
    return self.fc2(jax.nn.gelu(self.fc1(h), approximate=True))


class OutputHead(nnx.Module):
  """Tokens to patches of a velocity; zero at initialisation."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
    """Creates the modulation and the projection, both zero (adaLN-zero)."""
    outputs = config.patch**2 * config.channels
    self.modulation = Dense(
      config.width,
      2 * config.width,
      kernel_init=nnx.initializers.zeros,
      rngs=rngs,
      **dtypes(config),
    )
    # Its output is the velocity, which losses and solvers take in float32.
    self.proj = Dense(
      config.width,
      outputs,
      kernel_init=nnx.initializers.zeros,
      dtype='float32',
      param_dtype=config.param_dtype,
      rngs=rngs,
    )

  def __call__(self, h: jax.Array, c: jax.Array) -> jax.Array:
    """(B, N, D) and conditioning (B, D) -> (B, N, patch * patch * C)."""
    shift, scale = jnp.split(self.modulation(jax.nn.silu(c)), 2, axis=-1)
    return self.proj(modulate(layer_norm(h), shift, scale))


def dtypes(config: DiTConfig) -> dict[str, str]:
  """Dtypes of a layer inside the network, as `Dense` takes them."""
  return {
    'dtype': config.activation_dtype,
    'param_dtype': config.param_dtype,
  }
