"""Compositions against arithmetic written out from separate calls."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
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

pytestmark = pytest.mark.usefixtures('quick_compilation')
KEY = jax.random.key(5)
T = 0.4
MASKS = jnp.asarray([[1, 0, 1, 0, 1]], bool)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Skip(BlocksTerm):
  """S2 with given masks, (M, L) bool, in place of a random one."""

  name: ClassVar[str] = 'skip'
  scale: Scale
  keep: jax.Array

  def draw(self, denoiser, label, key, image_keys):
    return self.keep


def step_of(guidance, denoiser, label, t=T, key=KEY):
  drawn = guidance.draw(denoiser, label, key, jax.random.split(key, len(label)))
  return Step(t, draws=drawn)


@jax.jit
def guided(guidance, denoiser, x, label, t=T, key=KEY, at=None):
  at = t if at is None else at
  step = step_of(guidance, denoiser, label, at, key)
  return guidance(denoiser, x, t, label, step)


@jax.jit
def plain(denoiser, x, label, t=T, keep=None):
  return denoiser(x, jnp.full(len(x), t), label, keep=keep)


def close(ours, expected, atol=2e-5):
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=atol)


@pytest.fixture
def x(batch):
  return batch[0]


@pytest.fixture
def label():
  return jnp.asarray([0, 3, 9, 3, 5, 1])


@pytest.fixture
def parts(denoiser, x, label):
  """The conditional, the null and the skipping prediction."""
  return (
    plain(denoiser, x, label),
    plain(denoiser, x, jnp.full_like(label, 10)),
    plain(denoiser, x, label, keep=MASKS[0]),
  )


def skip(scale, masks=MASKS):
  return Skip(Scale(scale), masks)


def cfg(scale):
  return ClassifierFree(Scale(scale))


@pytest.mark.parametrize(
  'text',
  [
    'none',
    'ig:1',
    'cfg:1',
    's2:1',
    'ig:1,cfg:1,s2:1',
    'ig:1,apg:1:momentum=-0.5,s2:1,slg:1:blocks=2,rescale:0.7',
  ],
)
def test_scale_one_is_the_conditional_model(denoiser, x, label, text):
  ours = guided(parse(text), denoiser, x, label)
  np.testing.assert_array_equal(ours, plain(denoiser, x, label).velocity)


def test_extrapolate():
  strong, weak = jnp.asarray([3.0, 1e8, 0.1]), jnp.asarray([1.0, 1.3, 7e7])
  close(extrapolate(strong[:1], weak[:1], 1.5), [4.0])
  close(extrapolate(strong[:1], weak[:1], 0.0), [1.0])
  np.testing.assert_array_equal(extrapolate(strong, weak, 1.0), strong)


@pytest.mark.parametrize('tap', [0, 1])
def test_ig(denoiser, x, label, parts, tap):
  strong, weak = parts[0].velocity, parts[0].intermediate[tap]
  ours = guided(Guidance(Internal(Scale(1.7), tap)), denoiser, x, label)
  close(ours, strong + 0.7 * (strong - weak))


def test_cfg(denoiser, x, label, parts):
  strong, null = parts[0].velocity, parts[1].velocity
  ours = guided(Guidance(None, (cfg(2.5),)), denoiser, x, label)
  close(ours, null + 2.5 * (strong - null))


def test_s2(denoiser, x, label, parts):
  strong, sub = parts[0].velocity, parts[2].velocity
  ours = guided(Guidance(None, (skip(1.6),)), denoiser, x, label)
  close(ours, strong + 0.6 * (strong - sub))


def test_s2_skips_one_random_block(denoiser, x, label):
  ours = guided(parse('s2:1.6'), denoiser, x, label)
  strong = plain(denoiser, x, label).velocity
  errors = []
  for block in range(5):
    keep = jnp.ones(5, bool).at[block].set(False)
    sub = plain(denoiser, x, label, keep=keep).velocity
    errors.append(jnp.abs(strong + 0.6 * (strong - sub) - ours).max())
  assert sum(error < 1e-4 for error in errors) == 1
  assert np.argmin(errors) != 0


def test_ig_refines_both_rows_of_cfg(denoiser, x, label, parts):
  strong, null = (
    out.velocity + 0.4 * (out.velocity - out.intermediate[0])
    for out in parts[:2]
  )
  guidance = Guidance(Internal(Scale(1.4)), (cfg(1.35),))
  ours = guided(guidance, denoiser, x, label)
  close(ours, strong + 0.35 * (strong - null))


def test_ig_refines_the_sub_network_of_s2(denoiser, x, label, parts):
  strong, sub = (
    out.velocity + 0.4 * (out.velocity - out.intermediate[0])
    for out in (parts[0], parts[2])
  )
  guidance = Guidance(Internal(Scale(1.4)), (skip(1.25),))
  ours = guided(guidance, denoiser, x, label)
  close(ours, strong + 0.25 * (strong - sub))


@pytest.mark.parametrize(
  'terms', [(cfg(1.35), skip(1.25)), (skip(1.25), cfg(1.35))]
)
def test_cfg_and_s2_add(denoiser, x, label, parts, terms):
  strong, null, sub = (out.velocity for out in parts)
  ours = guided(Guidance(None, terms), denoiser, x, label)
  close(ours, strong + 0.35 * (strong - null) + 0.25 * (strong - sub))


def test_several_masks_are_averaged(denoiser, x, label, parts):
  masks = jnp.asarray([*MASKS, [1, 1, 1, 0, 0]], bool)
  other = plain(denoiser, x, label, keep=masks[1]).velocity
  strong, weak = parts[0].velocity, (parts[2].velocity + other) / 2
  ours = guided(Guidance(None, (skip(1.5, masks),)), denoiser, x, label)
  close(ours, strong + 0.5 * (strong - weak))


def test_s2_that_skips_nothing_changes_nothing(denoiser, x, label):
  guidance = Guidance(None, (skip(3.0, jnp.ones((1, 5), bool)),))
  ours = guided(guidance, denoiser, x, label)
  close(ours, plain(denoiser, x, label).velocity)


def test_ig_with_equal_predictions_changes_nothing(denoiser, x, label):
  params = dict(denoiser.params)
  # The blocks behind the first tap are the identity, its head the last one.
  blocks = params['blocks']
  closed = jax.tree.map(lambda leaf: leaf.at[2:].set(0), blocks['modulation'])
  params['blocks'] = {**blocks, 'modulation': closed}
  params['tap_heads'] = jax.tree.map(
    lambda heads, head: heads.at[0].set(head),
    params['tap_heads'],
    params['head'],
  )
  equal = model.bind(denoiser.config, params)
  ours = guided(parse('ig:3'), equal, x, label)
  close(ours, plain(equal, x, label).velocity)


def test_images_do_not_mix(denoiser, x, label):
  guidance = parse('ig:1.4,cfg:1.35,s2:1.25')
  together = guided(guidance, denoiser, x, label)
  for i in range(len(x)):
    part = slice(i, i + 1)
    alone = guided(guidance, denoiser, x[part], label[part])
    close(together[part], alone)


@pytest.mark.parametrize('name', ['ig', 'cfg'])
@pytest.mark.parametrize(
  ('t', 'inside'),
  [
    (0.3, True),
    (0.6, True),
    (np.nextafter(np.float32(0.3), np.float32(0)), False),
    (np.nextafter(np.float32(0.6), np.float32(1)), False),
  ],
)
def test_interval_is_closed(denoiser, x, label, name, t, inside):
  ours = guided(parse(f'{name}:2@0.3-0.6'), denoiser, x, label, t)
  same = parse(f'{name}:2') if inside else parse('none')
  np.testing.assert_array_equal(ours, guided(same, denoiser, x, label, t))
  other = parse('none') if inside else parse(f'{name}:2')
  difference = jnp.abs(ours - guided(other, denoiser, x, label, t))
  assert difference.max() > 1e-3


def test_scales_are_read_at_the_given_time(denoiser, x, label):
  guidance = parse('ig:2@0.3-0.6,cfg:2@0.7-1')
  for at, same in ((0.5, 'ig:2'), (0.8, 'cfg:2'), (0.1, 'none')):
    ours = guided(guidance, denoiser, x, label, T, KEY, at)
    close(ours, guided(parse(same), denoiser, x, label))


@pytest.mark.parametrize(
  ('guidance', 'cost'),
  [
    (parse('none'), 1),
    (parse('ig:1.5'), 1),
    (parse('cfg:1.5'), 2),
    (parse('cfg:1'), 1),
    (parse('cfg:1.5@0.5-1'), 1),
    (Guidance(None, (skip(1.5),)), 1 + 2 / 5),  # blocks 2 and 4, behind 1
    (Guidance(None, (skip(1.0),)), 1),
    (Guidance(Internal(Scale(2)), (cfg(1.5), skip(1.5))), 2 + 2 / 5),
  ],
)
def test_passes(denoiser, label, guidance, cost):
  step = step_of(guidance, denoiser, label)
  assert guidance.passes(denoiser, step) == pytest.approx(cost)


def test_passes_of_the_blocks_drawn(denoiser, label):
  # One of blocks 1 to 4 is skipped; 4 - block of them run behind it.
  guidance, costs = parse('s2:1.5'), set()
  for k in range(40):
    step = step_of(guidance, denoiser, label, key=jax.random.key(k))
    costs.add(round(5 * float(guidance.passes(denoiser, step) - 1)))
  assert costs == {0, 1, 2, 3}


@pytest.mark.parametrize(
  ('text', 'changes', 'message'),
  [
    ('ig:1.4', {'taps': ()}, 'ig needs tap 0 .* has 0'),
    ('ig:1.4:tap=2', {}, 'ig needs tap 2 .* has 2'),
    ('s2:1.4', {'depth': 2, 'taps': ()}, 'more than 2 blocks .* has 2'),
    ('s2:1.4:skip=4', {}, 'skip=4 needs more than 5 blocks .* has 5'),
    ('cfg:2,s2:1.4:skip=4', {}, 'skip=4'),
  ],
)
def test_check_refuses_what_the_network_cannot_serve(
  config, text, changes, message
):
  config = dataclasses.replace(config, **changes)
  with pytest.raises(InputError, match=message):
    parse(text).check(model.bind(config, {}))


@pytest.mark.parametrize(
  'text', ['none', 'cfg:2', 'ig:1.4:tap=1', 's2:1.4:skip=3', 'ig:2,s2:2,cfg:2']
)
def test_check_lets_pass_what_fits(config, text):
  parse(text).check(model.bind(config, {}))
