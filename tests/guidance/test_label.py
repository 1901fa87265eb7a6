"""Tests CFG channels, CFG++ steps, ICG labels, and the learned variance."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import LABEL as LABELS
from toy import NULL, PATHS, TOY, close, guided, plain
from toy import X as STATE

from core.errors import InputError
from dit.path import path_named
from dit.types import ClassConditional, DenoiserOutput
from guidance import (
  ClassifierFree,
  ClassifierFreePlusPlus,
  Guidance,
  Internal,
  Scale,
  Step,
  StochasticSelf,
  parse,
)
from guidance.base import Contrast
from sample.registry import make_solver
from sample.sampler import draw_steps
from sample.solvers import Evaluation, Interval

WITHOUT = dataclasses.replace(TOY, null_label=False)


@pytest.mark.parametrize(
  'name', ['cfg', 'cfg++', 'cfg_zero', 'apg', 'tcfg', 'fdg']
)
def test_null_label_is_needed(name):
  guidance = parse(f'{name}:0.5')
  guidance.check(TOY)
  with pytest.raises(InputError, match=r'needs the null label.*icg, s2 and ig'):
    guidance.check(WITHOUT)


def test_methods_that_do_without_the_null_label():
  for text in ('none', 'icg:2', 'ig:2,s2:1.2', 'slg:2:blocks=1'):
    parse(text).check(WITHOUT)


class Fake(ClassConditional):
  """A denoiser with outputs that depend on image, label and mask."""

  depth, num_taps, num_classes = 4, 1, 10
  null_label, multiply_adds = True, 1

  def __init__(self, learned_variance=False):
    self.learned_variance = learned_variance

  def __call__(self, x, t, label, sub=None):
    out = self.one(x, label, 1)
    if sub is None:
      return out
    parts = x[:: sub.every], label[:: sub.every]
    subs = tuple(self.one(*parts, 2 + keep.sum()) for keep in sub.keep)
    return dataclasses.replace(out, sub=subs)

  def one(self, x, label, kind):
    label = label[:, None, None, None]
    channels = jnp.arange(1.0, 1 + x.shape[-1])
    velocity = x * kind + channels * (1 + label)
    return DenoiserOutput(
      velocity,
      (velocity / (2 + channels + label),),
      8 * x + label + kind / 8 if self.learned_variance else None,
    )


X = jax.random.normal(jax.random.key(1), (3, 2, 2, 5))
LABEL = jnp.asarray([4, 0, 7])
KEY = jax.random.key(2)


def predict(guidance, denoiser, t=0.5, key=KEY):
  draws = guidance.draw(denoiser, LABEL, key, jax.random.split(key, 3))
  t = jnp.float32(t)
  out = guidance.predict(denoiser, X, t, LABEL, Step(t, draws))
  return out.velocity, out.variance


def refined(label, scale=1.0):
  out = Fake().one(X, jnp.broadcast_to(jnp.asarray(label), 3), 1)
  return out.velocity + (scale - 1) * (out.velocity - out.intermediate[0])


@pytest.mark.parametrize(('guided', 'internal'), [
  (0, 1.7), (1, 1.7), (3, 1.7), (3, 1.0), (5, 1.7), (99, 1.7),
])  # fmt: skip
def test_only_the_first_channels_are_guided(guided, internal):
  cfg = ClassifierFree(Scale(2.5), guided)
  ours, _ = predict(Guidance(Internal(Scale(internal)), (cfg,)), Fake())
  strong, null = refined(LABEL, internal), refined(10, internal)
  first = guided or 5
  close(ours[..., first:], strong[..., first:], atol=1e-6)
  expected = null + 2.5 * (strong - null)
  close(ours[..., :first], expected[..., :first], atol=1e-5)
  assert (jnp.abs(ours - strong)[..., :first] > 0.1).all()


def test_guided_channels_are_those_of_cfg_alone():
  # `guided_channels` limits CFG, but not IG or S2.
  terms = ClassifierFree(Scale(2.5), 1), StochasticSelf(Scale(1.5))
  both, _ = predict(Guidance(Internal(Scale(1.7)), terms), Fake())
  for alone, first in ((terms[1:], 1), (terms[:1], 0)):
    ours, _ = predict(Guidance(Internal(Scale(1.7)), alone), Fake())
    moved = jnp.abs(both - ours).min((0, 1, 2)) > 1e-3
    expected = [True, *[not first] * 4]
    np.testing.assert_array_equal(moved, expected)


def test_more_channels_than_there_are_cannot_be_guided():
  for text in ('cfg:2:guided_channels=4', 'cfg++:0.5:guided_channels=4'):
    parse(text).check(TOY, (8, 8, 4))
    with pytest.raises(InputError, match=r'guides 4 channels.*latents have 3'):
      parse(text).check(TOY, (8, 8, 3))


def test_infinite_difference_of_an_unguided_channel_does_no_harm():
  difference = jnp.asarray([1.0, jnp.inf, jnp.nan])
  zero, path = jnp.zeros(3), path_named('linear')
  at = Contrast(difference, zero, jnp.float32(2), zero, jnp.float32(0.5), path)
  push, _ = ClassifierFree(Scale(2), 1).push(at)
  np.testing.assert_array_equal(push, [1, 0, 0])


BOTH = ClassifierFree(Scale(1.5)), StochasticSelf(Scale(1.5))


@pytest.mark.parametrize('terms', [(), BOTH], ids=['none', 'cfg and s2'])
def test_variance_is_that_of_the_conditional_row(terms):
  guidance = Guidance(Internal(Scale(1.4)), terms)
  plain = Fake(learned_variance=True)
  velocity, variance = predict(guidance, plain)
  np.testing.assert_array_equal(variance, plain.one(X, LABEL, 1).variance)
  # Without a variance output, the variance is None. The velocity is the same.
  other, none = predict(guidance, Fake())
  assert none is None
  np.testing.assert_array_equal(velocity, other)
  t = jnp.float32(0.5)
  draws = guidance.draw(plain, LABEL, KEY, jax.random.split(KEY, 3))
  ours = guidance(plain, X, t, LABEL, Step(t, draws))
  np.testing.assert_array_equal(ours, velocity)


def test_terms_switch_on_and_off_beside_a_variance():
  plain = Fake(learned_variance=True)
  internal, key = Internal(Scale(1.4)), jax.random.key(3)

  @jax.jit
  def run(cfg, s2, t):
    terms = (ClassifierFree(Scale(cfg, 0.25, 0.5)), StochasticSelf(Scale(s2)))
    return predict(Guidance(internal, terms), plain, t, key)

  velocities = {}
  for cfg, s2, t in itertools.product((1.0, 1.5), (1.0, 1.25), (0.2, 0.4)):
    velocity, variance = run(cfg, s2, t)
    np.testing.assert_array_equal(variance, plain.one(X, LABEL, 1).variance)
    on = (cfg != 1 and t == 0.4, s2 != 1)
    close(velocity, velocities.setdefault(on, velocity), atol=0)
  assert len(velocities) == 4  # none, CFG, S2, both
  close(velocities[False, False], refined(LABEL, 1.4), atol=1e-5)
  first, second, both = (
    velocities[on] - velocities[False, False]
    for on in ((True, False), (False, True), (True, True))
  )
  assert jnp.abs(first).max() > 0.1 and jnp.abs(second).max() > 0.1
  close(first + second, both, atol=1e-4)


def effective(path, t, t_next, scale):
  term = ClassifierFreePlusPlus(Scale(scale))
  return term.scale_at(Step(jnp.float32(t), (), jnp.float32(t_next), path))


def test_effective_scale_of_cfg_plus_plus():
  # On the linear path, the effective scale is lambda t (1 - t') / (t - t').
  linear = path_named('linear')
  np.testing.assert_allclose(effective(linear, 0.5, 0.48, 0.6), 7.8, rtol=1e-5)
  np.testing.assert_allclose(effective(linear, 1.0, 0.9, 0.6), 0.6, rtol=1e-5)
  np.testing.assert_allclose(effective(linear, 0.1, 0.0, 0.6), 0.6, rtol=1e-5)


@pytest.mark.parametrize(
  ('name', 'solver'),
  [('linear', 'euler'), *((name, 'ddim') for name in PATHS)],
)
@pytest.mark.parametrize(('t', 't_next'), [(0.5, 0.48), (0.9, 0.6), (0.1, 0)])
def test_cfg_plus_plus_guides_x0_and_keeps_the_null_noise(
  name, solver, t, t_next
):
  path, scale = path_named(name), 0.6
  times = {'t_next': jnp.float32(t_next), 'path': path}
  strong, null = plain(t=t), plain(NULL, t)
  x0, x0_null = (path.x0_from_velocity(STATE, v, t) for v in (strong, null))
  noise = path.noise_from_velocity(STATE, null, t)
  x0 = x0_null + scale * (x0 - x0_null)
  t, t_next = jnp.float32(t), jnp.float32(t_next)
  expected = path.alpha(t_next) * x0 + path.sigma(t_next) * noise
  velocity = guided(f'cfg++:{scale}', t, **times)
  solver, first = make_solver(solver, path), Evaluation(velocity)
  ours = solver.step(Interval(STATE, t, t_next, first))
  close(ours, expected, rtol=1e-4, atol=5e-4)
  # CFG at the effective scale must give the same velocity.
  same = parse(f'cfg:{float(effective(path, t, t_next, scale))}')
  close(velocity, guided(same, t, path=path), rtol=1e-4, atol=1e-4)
  assert jnp.abs(velocity - guided(f'cfg:{scale}', t)).max() > 0.1 or t < 0.2


def test_cfg_plus_plus_of_some_channels():
  options = {'t_next': jnp.float32(0.4)}
  ours = guided('cfg++:0.6:guided_channels=1', 0.5, **options)
  whole = guided('cfg++:0.6', 0.5, **options)
  np.testing.assert_array_equal(ours[..., 0], whole[..., 0])
  np.testing.assert_array_equal(ours[..., 1:], plain()[..., 1:])


@functools.partial(jax.jit, static_argnames='steps')
def icg_labels(index, seed=0, label=4, steps=20):
  condition = jnp.full_like(index, label)
  (drawn,) = draw_steps(parse('icg:2'), TOY, condition, index, seed, steps)
  return drawn


def test_icg_moves_away_from_the_labels_drawn():
  drawn = jnp.asarray([1, 9, 3])
  ours = guided('icg:2.5', draws=(drawn,))
  strong, weak = plain(), plain(drawn)
  close(ours, weak + 2.5 * (strong - weak))
  assert jnp.abs(ours - guided('cfg:2.5')).max() > 0.1


def test_icg_draws_a_label_for_each_image_and_step():
  drawn = np.asarray(icg_labels(np.arange(200)))
  assert drawn.shape == (20, 200) and drawn.dtype == np.int32
  counts = np.bincount(drawn.reshape(-1), minlength=10)
  assert len(counts) == 10  # ICG never draws the null label, 10.
  np.testing.assert_allclose(counts, 400, atol=4 * 19)
  # Two labels of neighboring steps or images are equal in 10 % of all cases.
  for a, b in ((drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1])):
    np.testing.assert_allclose((a == b).mean(), 0.1, atol=0.03)


def test_icg_labels_are_those_of_the_image_and_the_seed():
  index = np.arange(200)
  drawn = np.asarray(icg_labels(index))
  assert drawn.dtype == LABELS.dtype
  order = np.random.default_rng(0).integers(0, 200, 200)
  np.testing.assert_array_equal(icg_labels(order), drawn[:, order])
  assert (icg_labels(index, seed=1) != drawn).mean() > 0.7
  np.testing.assert_array_equal(icg_labels(index, steps=3), drawn[:3])
  # The random labels do not depend on the labels of the images.
  np.testing.assert_array_equal(icg_labels(index, label=7), drawn)
