"""Tests the effect, initialization and file format of LoRA changes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from networks import assert_close
from students import TEACHER

from core.errors import InputError
from distill import lineage, lora
from dit import layers, model

KEY = jax.random.key(0)
SMALL = dataclasses.replace(TEACHER, depth=1, taps=())
SCALE = 2.0


def changes_of(config, rank, *, zero=False):
  """Returns LoRA parameters. Matrix B is random, or 0 if `zero` is true."""
  changes = lora.init(config, rank, KEY)
  for part, key in zip('qv', jax.random.split(KEY), strict=True):
    up = changes['lora'][part]['up']
    if not zero:
      changes['lora'][part]['up'] = 0.01 * jax.random.normal(key, up.shape)
  return changes


def attend_with_changes(changes):

  def attention(self, h, rotary=None):
    assert rotary is None
    b, n, d = h.shape
    parts = [part.reshape(b, n, d) for part in jnp.split(self.qkv(h), 3, 2)]
    for index, name in ((0, 'q'), (2, 'v')):
      down, up = (changes['lora'][name][key][0] for key in ('down', 'up'))
      parts[index] = parts[index] + SCALE * parts[index] @ down @ up
    heads = (b, n, TEACHER.num_heads, TEACHER.head_width)
    q, k, v = (p.reshape(heads).transpose(0, 2, 1, 3) for p in parts)
    out = layers.attend(q, k, v, self.kind).transpose(0, 2, 1, 3)
    return self.proj(out.reshape(b, n, d))

  return attention


def test_changes_act_on_projected_queries_and_values(teacher, monkeypatch):
  """Merged LoRA and LoRA inside attention give equal outputs and gradients."""
  blocks = jax.tree.map(lambda leaf: leaf[:1], teacher['blocks'])
  params = {**teacher, 'blocks': blocks}
  del params['tap_heads']
  x = jax.random.normal(KEY, (2, *SMALL.latent_shape))
  t, label = jnp.array([0.3, 0.8]), jnp.array([0, 2])

  def loss(network):
    return jnp.sin(model.bind(SMALL, network)(x, t, label).velocity).sum()

  @jax.jit
  @jax.value_and_grad
  def merged(changes):
    return loss(lora.apply(params, changes, SCALE))

  @jax.jit
  @jax.value_and_grad
  def written_out(changes):
    with monkeypatch.context() as patch:
      patch.setattr(layers.Attention, '__call__', attend_with_changes(changes))
      return loss(params)

  begun, moved = (changes_of(SMALL, 4, zero=zero) for zero in (True, False))
  for changes in (begun, moved):
    found = merged(changes)
    assert_close(found, written_out(changes), rtol=1e-3, atol=1e-4)
    assert jnp.any(found[1]['lora']['q']['up'])
  assert abs(merged(moved)[0] - merged(begun)[0]) > 1e-3


@pytest.mark.parametrize('width', [16, 256])
def test_changes_begin_with_unit_variance_at_every_width(width):
  """Matrix A has unit variance, so B moves q at a rate of order sqrt(width)."""
  config = dataclasses.replace(TEACHER, width=width)
  for change in lora.init(config, 32, KEY)['lora'].values():
    assert abs(change['down'].std() - 1) < 0.05
    assert not change['up'].any()


def test_older_changes_are_refused_in_one_line(tmp_path):
  """LoRA arrays of older versions have our shapes but another meaning."""
  old = {'place': 'teacher', 'sha256': '1'}
  (tmp_path / 'teacher.json').write_text(json.dumps(old))
  about = {**old, 'lora': lora.KIND}
  config = {'distill': {'fake': 'lora'}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(InputError, match='older version') as error:
    lineage.check_known(tmp_path, about)
  assert '\n' not in str(error.value)
  (tmp_path / 'teacher.json').write_text(json.dumps(about))
  lineage.check_known(tmp_path, about)
