"""Tests attention and its gradient in all implementations and precisions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.layers import attend

SHAPE = (2, 3, 7, 8)  # images, heads, tokens, head width


@pytest.fixture(scope='module')
def parts():
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, SHAPE) for key in keys]


def by_hand(q, k, v):
  q, k, v = (np.asarray(each, np.float64) for each in (q, k, v))
  out = np.empty_like(q)
  for place in np.ndindex(SHAPE[:3]):
    image, head, _ = place
    logits = k[image, head] @ q[place] / np.sqrt(SHAPE[-1])
    weights = np.exp(logits - logits.max())
    out[place] = weights / weights.sum() @ v[image, head]
  return out


def test_attention_by_hand(parts):
  expected = by_hand(*parts)
  np.testing.assert_allclose(attend(*parts), expected, rtol=1e-5, atol=1e-6)
  narrow = attend(*(each.astype('bfloat16') for each in parts))
  assert narrow.dtype == 'bfloat16'
  np.testing.assert_allclose(narrow.astype('float32'), expected, atol=0.03)


def test_large_logits_do_not_overflow(parts):
  large = 100 * parts[0], 100 * parts[1], parts[2]
  expected = by_hand(*large)
  np.testing.assert_allclose(attend(*large), expected, rtol=1e-3, atol=1e-3)


def test_gradient_is_that_of_the_plain_softmax(parts):
  """Subtracting the largest logit does not change the gradient."""

  def plain(q, k, v):
    logits = jnp.einsum('bhnd,bhmd->bhnm', q, k) * SHAPE[-1] ** -0.5
    return jnp.einsum('bhnm,bhmd->bhnd', jax.nn.softmax(logits), v)

  def gradient(function):
    return jax.jit(jax.grad(lambda p: jnp.sin(function(*p)).sum()))(parts)

  for ours, theirs in zip(gradient(attend), gradient(plain), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_fused_kind_gets_the_same_arrays(parts, monkeypatch):
  """Tests the array layout for cuDNN, with XLA in place of the GPU kernel."""
  asked = []

  def fused(q, k, v, implementation):
    asked.append(implementation)
    return function(q, k, v, implementation='xla')

  function = jax.nn.dot_product_attention
  monkeypatch.setattr(jax.nn, 'dot_product_attention', fused)
  ours = functools.partial(attend, kind='cudnn')
  np.testing.assert_allclose(ours(*parts), attend(*parts), rtol=1e-5, atol=1e-6)
  assert asked == ['cudnn']
