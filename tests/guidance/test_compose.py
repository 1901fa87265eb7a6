"""Composed guidance equals arithmetic on separate network calls."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dit import model
from guidance import (
  ClassifierFree,
  Guidance,
  Internal,
  Scale,
  Step,
  extrapolate,
  parse,
)
from guidance.base import BlocksTerm

KEEP = jnp.asarray([1, 0, 1, 0, 1], bool)
T = 0.4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Skip(BlocksTerm):
  """S2 with the fixed masks `keep`, a (masks, blocks) array of booleans."""

  name: ClassVar[str] = 'skip'
  scale: Scale
  keep: jax.Array

  def draw(self, denoiser, label, key, image_keys):
    return self.keep


def compose(ig, cfg, s2, keep=KEEP):
  ig, cfg, s2 = (Scale(jnp.float32(value)) for value in (ig, cfg, s2))
  return Guidance(Internal(ig), (ClassifierFree(cfg), Skip(s2, keep[None])))


@jax.jit
def guided(guidance, denoiser, x, label):
  draws = guidance.draw(denoiser, label, None, None)
  return guidance(denoiser, x, T, label, Step(T, draws))


@jax.jit
def plain(denoiser, x, label, keep):
  return denoiser(x, jnp.full(len(x), T), label, keep=keep)


close = functools.partial(toy.close, rtol=1e-4, atol=2e-5)


@pytest.fixture
def x(batch):
  return batch[0]


@pytest.fixture
def label():
  return jnp.asarray([0, 3, 9, 3, 5, 1])


ALL = jnp.ones(5, bool)


@pytest.mark.parametrize(('ig', 'cfg', 's2'), [
  (1, 1, 1), (1.7, 1, 1), (1, 2.5, 1), (1, 1, 1.6), (1.4, 1.35, 1),
  (1.4, 1, 1.25), (1, 1.35, 1.25), (1.4, 1.35, 1.25),
])  # fmt: skip
def test_methods_add_up_and_ig_refines_every_row(
  denoiser, x, label, ig, cfg, s2
):
  ours = guided(compose(ig, cfg, s2), denoiser, x, label)
  null = jnp.full_like(label, 10)
  rows = (label, ALL), (null, ALL), (label, KEEP)
  strong, null, sub = (
    out.velocity + (ig - 1) * (out.velocity - out.intermediate[0])
    for out in (plain(denoiser, x, *row) for row in rows)
  )
  close(ours, strong + (cfg - 1) * (strong - null) + (s2 - 1) * (strong - sub))


def test_extrapolate():
  strong, weak = jnp.asarray([3.0, 1e8, 0.1]), jnp.asarray([1.0, 1.3, 7e7])
  close(extrapolate(strong[:1], weak[:1], 1.5), [4.0])
  close(extrapolate(strong[:1], weak[:1], 0.0), [1.0])
  np.testing.assert_array_equal(extrapolate(strong, weak, 1.0), strong)


def test_s2_that_skips_nothing_changes_nothing(denoiser, x, label):
  ours = guided(compose(1, 1, 3.0, ALL), denoiser, x, label)
  close(ours, plain(denoiser, x, label, ALL).velocity)


def test_ig_with_equal_predictions_changes_nothing(denoiser, x, label):
  params = dict(denoiser.params)
  # Blocks after tap 1 do nothing. The head at tap 1 equals the output head.
  blocks = params['blocks']
  closed = jax.tree.map(lambda leaf: leaf.at[2:].set(0), blocks['modulation'])
  params['blocks'] = {**blocks, 'modulation': closed}
  heads = params['tap_heads'], params['head']
  params['tap_heads'] = jax.tree.map(lambda a, b: a.at[0].set(b), *heads)
  equal = model.bind(denoiser.config, params)
  ours = guided(compose(3, 1, 1), equal, x, label)
  close(ours, plain(equal, x, label, ALL).velocity)


def test_images_do_not_mix(denoiser, x, label):
  guidance = compose(1.4, 1.35, 1.25)
  together = guided(guidance, denoiser, x, label)
  others = guided(guidance, denoiser, (9 * x).at[2].set(x[2]), label)
  close(others[2], together[2])
  assert jnp.abs(others - together).max((1, 2, 3))[0] > 0.1


def test_scales_are_read_at_the_given_time():
  text = 'ig:2@0.3-0.6,cfg:2@0.7-1'
  for at, same in ((0.5, 'ig:2'), (0.8, 'cfg:2'), (0.1, 'none')):
    ours = toy.guided(text, 0.4, at=jnp.float32(at))
    toy.close(ours, toy.guided(same, 0.4))


@pytest.mark.parametrize(('guidance', 'cost'), [
  (parse('none'), 1), (parse('ig:1.5'), 1), (parse('cfg:1.5'), 2),
  (parse('cfg:1'), 1), (parse('cfg:1.5@0.5-1'), 1), (compose(1, 1, 1), 1),
  (compose(1, 1, 1.5), 1 + 2 / 5),  # S2 runs blocks 2 and 4 of 5 again.
  (compose(2, 1.5, 1.5), 2 + 2 / 5),
])  # fmt: skip
def test_passes(denoiser, label, guidance, cost):
  step = Step(T, guidance.draw(denoiser, label, None, None))
  assert guidance.passes(denoiser, step) == pytest.approx(cost)
