"""Tests guidance by skipped blocks (S2, SLG) or another network (`auto`)."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import LABEL, NULL, TOY, Toy, close, draws, guided, plain

from core.errors import InputError
from dit import model
from guidance import (
  AutoGuidance,
  ClassifierFree,
  Guidance,
  Internal,
  Scale,
  SkipLayer,
  Step,
  StochasticSelf,
  parse,
)
from sample.grid import make_grid
from sample.sampler import draw_steps, skipped_blocks


@functools.cache
def masks(depth, skip=0, count=64, exclude=()):
  term = StochasticSelf(Scale(1.5), skip, exclude=exclude)
  network = Toy(depth=depth)

  @jax.jit
  def draw(keys):
    return jax.vmap(lambda key: term.draw(network, LABEL, key, None))(keys)

  drawn = draw(jax.random.split(jax.random.key(0), count))
  assert drawn.shape == (count, 1, depth) and drawn.dtype == bool
  return np.asarray(drawn[:, 0])


@pytest.mark.parametrize(('depth', 'skip', 'count'), [
  (3, 1, 1), (28, 3, 3),
  # By default (skip=0), S2 skips about a twelfth of the blocks.
  (3, 0, 1), (6, 0, 1), (12, 0, 1), (13, 0, 2), (28, 0, 2),
])  # fmt: skip
def test_so_many_blocks_are_skipped_and_never_the_first(depth, skip, count):
  drawn = masks(depth, skip)
  assert ((~drawn).sum(1) == count).all()
  assert drawn[:, 0].all()


def test_all_other_blocks_are_drawn_evenly():
  skipped = (~masks(5, count=2000)).mean(0)
  assert skipped[0] == 0
  np.testing.assert_allclose(skipped[1:], 1 / 4, atol=0.05)


def test_excluded_blocks_are_never_skipped():
  drawn = masks(8, 2, count=200, exclude=(3, 7, 3))
  assert ((~drawn).sum(1) == 2).all()
  assert drawn[:, [0, 3, 7]].all()
  assert not drawn[:, [1, 2, 4, 5, 6]].all(0).any()


def test_several_masks_are_drawn_each_for_itself():
  term = StochasticSelf(Scale(1.5), 2, masks=50)
  draw = jax.jit(lambda key: term.draw(Toy(depth=12), LABEL, key, None))
  drawn = draw(jax.random.key(4))
  assert drawn.shape == (50, 12)
  assert ((~drawn).sum(1) == 2).all() and drawn[:, 0].all()
  assert len(np.unique(drawn, axis=0)) > 20


def test_masks_of_a_trajectory():
  network, guidance = Toy(depth=28), parse('s2:1.5:skip=3')

  @functools.partial(jax.jit, static_argnames='steps')
  def drawn_by(seed, index, steps):
    (drawn,) = draw_steps(guidance, network, index, index, seed, steps)
    return drawn

  def table(seed, index=(0, 1), steps=30):
    return np.asarray(drawn_by(seed, jnp.asarray(index), steps))

  drawn = table(seed=0)
  assert drawn.shape == (30, 1, 28)  # one mask per step
  assert len(np.unique(drawn, axis=0)) == 30
  np.testing.assert_array_equal(table(seed=0), drawn)
  np.testing.assert_array_equal(table(0, index=[9, 4]), drawn)
  np.testing.assert_array_equal(table(0, steps=4), drawn[:4])
  assert len(np.unique(np.concatenate([drawn, table(seed=1)]), axis=0)) > 55
  listed = skipped_blocks(guidance, network, 0, 30)
  texts = ('+'.join(map(str, np.flatnonzero(~mask))) for (mask,) in drawn)
  assert listed == {'s2': ' '.join(texts)}


def s2(scale=1.6, **options):
  return Guidance(None, (StochasticSelf(Scale(scale), **options),))


KEEP = jnp.asarray([[1, 0, 1, 1]], bool)
OTHER = jnp.asarray([[1, 1, 0, 0]], bool)


def skipping(keep):
  return dataclasses.replace(TOY, kept=tuple(map(bool, keep)))


def test_naive_s2_is_the_mean_over_its_masks():
  both = jnp.concatenate([KEEP, OTHER, OTHER])
  ours = guided(s2(masks=3), draws=(both,))
  first, second = (plain(network=skipping(keep[0])) for keep in (KEEP, OTHER))
  weak = (first + 2 * second) / 3
  close(ours, plain() + 0.6 * (plain() - weak))
  equal = guided(s2(masks=3), draws=(jnp.tile(KEEP, (3, 1)),))
  close(equal, guided(s2(), draws=(KEEP,)), atol=1e-6)


def test_s2_with_a_fixed_mask_is_slg():
  slg = parse('slg:1.6:blocks=1')
  np.testing.assert_array_equal(draws(slg)[0], KEEP)
  np.testing.assert_array_equal(guided(slg), guided(s2(), draws=(KEEP,)))
  two = parse('slg:1.6:blocks=2+3')
  np.testing.assert_array_equal(guided(two), guided(s2(), draws=(OTHER,)))
  assert jnp.abs(guided(slg) - guided(two)).max() > 0.1


@pytest.mark.parametrize('beside', [(), (ClassifierFree(Scale(2.5)),)])
def test_empty_masks_change_nothing(beside):
  expected = guided(Guidance(None, beside))
  none = SkipLayer(Scale(3.0), ())
  close(guided(Guidance(None, (*beside, none))), expected, atol=1e-6)
  guidance = Guidance(None, (*beside, StochasticSelf(Scale(3.0))))
  drawn = (*(None for _ in beside), jnp.ones((1, 4), bool))
  close(guided(guidance, draws=drawn), expected, atol=1e-6)
  step = Step(jnp.float32(0.5), drawn)
  assert guidance.passes(TOY, step) == 1 + len(beside)


def test_s2_without_cfg_is_autoguidance_by_the_sub_network():
  ours = guided(s2(1.25), draws=(KEEP,))
  close(ours, guided(auto(skipping(KEEP[0]), 1.25)), atol=1e-6)
  assert jnp.abs(ours - plain()).max() > 0.1


@pytest.mark.parametrize(
  'skipped', [pytest.param((1,), marks=pytest.mark.slow), (2, 4)]
)
def test_skipping_is_closing_the_gates(denoiser, batch, skipped):
  # If the two gates of a block are 0, the block runs without an effect.
  x, label = batch[0], jnp.minimum(batch[2], 9)
  guidance = parse(f'slg:1.6:blocks={"+".join(map(str, skipped))}')
  ours = guided(guidance, network=denoiser, x=x, label=label)
  gates = jnp.arange(6 * 32).reshape(6, 32)[jnp.asarray([2, 5])].reshape(-1)
  rows = jnp.asarray(skipped)[:, None]

  def close_gates(leaf):  # (blocks, ..., 6 * width)
    return leaf.at[rows, ..., gates].set(0)

  blocks = dict(denoiser.params['blocks'])
  blocks['modulation'] = jax.tree.map(close_gates, blocks['modulation'])
  gated = model.bind(denoiser.config, {**denoiser.params, 'blocks': blocks})
  strong, weak = (plain(label, network=n, x=x) for n in (denoiser, gated))
  close(ours, strong + 0.6 * (strong - weak), rtol=1e-4, atol=2e-5)
  assert jnp.abs(strong - weak).max() > 0.01


def auto(guide, scale=2.0, internal=None, beside=()):
  return Guidance(internal, (*beside, AutoGuidance(Scale(scale), guide)))


def test_autoguidance_by_a_smaller_network():
  guide = Toy(seed=5, depth=2, multiply_adds=30)
  ours = guided(auto(guide))
  strong, weak = plain(), plain(network=guide)
  close(ours, weak + 2 * (strong - weak))
  step = Step(jnp.float32(0.5), (None,))
  assert auto(guide).passes(TOY, step) == pytest.approx(1.3)
  assert auto(guide, scale=1.0).passes(TOY, step) == 1
  np.testing.assert_array_equal(guided(auto(guide, 1.0)), strong)


@pytest.mark.slow
def test_autoguidance_by_another_transformer(denoiser, batch):
  x, label = batch[0], jnp.minimum(batch[2], 9)
  changes = {'depth': 2, 'width': 16, 'num_heads': 2, 'taps': ()}
  config = dataclasses.replace(denoiser.config, **changes)
  params = jax.jit(model.init, static_argnums=0)(config, jax.random.key(7))
  params = jax.tree.map(lambda leaf: leaf + 0.05, params)
  guide = model.bind(config, params)
  ours = guided(auto(guide), network=denoiser, x=x, label=label)
  strong, weak = (plain(label, network=n, x=x) for n in (denoiser, guide))
  close(ours, weak + 2 * (strong - weak), rtol=1e-4, atol=2e-5)
  assert jnp.abs(strong - weak).max() > 0.1


@pytest.mark.parametrize('internal', [None, Internal(Scale(1.4))])
def test_autoguidance_by_itself_changes_nothing(internal):
  same = auto(TOY, 3.0, internal)
  close(guided(same), guided(Guidance(internal)), atol=1e-6)


def test_autoguidance_adds_to_cfg():
  guide = Toy(seed=5)
  ours = guided(auto(guide, beside=(ClassifierFree(Scale(1.5)),)))
  strong, null, weak = plain(), plain(NULL), plain(network=guide)
  close(ours, strong + 0.5 * (strong - null) + (strong - weak), atol=1e-4)


@pytest.mark.parametrize('taps', [0, 1])
def test_ig_refines_the_guide_where_it_has_the_tap(taps):
  guide, internal = Toy(seed=5, num_taps=taps), Internal(Scale(1.4))
  ours = guided(auto(guide, internal=internal))
  strong = guided(Guidance(internal))
  weak = plain(network=guide)
  if taps:
    weak = guided(Guidance(internal), network=guide)
  close(ours, weak + 2 * (strong - weak), atol=1e-4)


@pytest.mark.parametrize(('guidance', 'message'), [
  ('slg:2', 'slg lists no blocks; name them, as in slg:2:blocks=7'),
  ('slg:2:blocks=1+4', 'slg names block 4; the network has blocks 0 to 3'),
  ('slg:2:blocks=-1', 'slg names block -1'),
  ('s2:2:exclude=4', 's2 names block 4; the network has blocks 0 to 3'),
  ('s2:2:exclude=-1', 's2 names block -1'),
  ('s2:2:exclude=2:skip=2', 'more than 4 blocks .*excluded.* has 4'),
  ('s2:2:skip=3', 'skip=3 needs more than 4 blocks .* has 4'),
  ('ig:2:tap=1', 'needs tap 1 .* has 1'),
  ('cfg:2,s2:1.4:skip=4', 'skip=4'),
  ('auto:2', 'auto needs a weaker network.*--guide'),
])  # fmt: skip
def test_check_refuses(guidance, message):
  with pytest.raises(InputError, match=message):
    parse(guidance).check(TOY)
  for text in ('none', 'cfg:2', 'ig:1.4', 's2:1.4:skip=2', 'ig:2,s2:2,cfg:2'):
    parse(text).check(TOY)


def test_check_refuses_a_guide_for_another_task():
  auto(TOY).check(TOY)
  with pytest.raises(InputError, match='has 5 classes, the network 10'):
    auto(Toy(num_classes=5)).check(TOY)


@pytest.mark.parametrize(('fractions', 'text'), [
  ((0.01, 0.30), 'slg:3.5:blocks=7+8+9@0.875-0.997'),  # Stability AI's values
  ((0.01, 0.20), 'slg:3.8:blocks=7+8+9@0.923-0.997'),  # values in diffusers
])  # fmt: skip
def test_published_slg_intervals_are_given_in_noise_time(fractions, text):
  # Intervals are published as fractions of the steps. SD3.5's grid has shift 3.
  grid = make_grid(100, shift=3.0)
  high, low = (grid[round(100 * f)] for f in fractions)
  scale = parse(text).terms[0].scale
  assert (scale.low, scale.high) == pytest.approx((low, high), abs=5e-4)
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'guidance.md'
  assert text in page.read_text() and text in SkipLayer.__doc__
