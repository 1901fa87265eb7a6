"""The blocks that S2 draws, intervals, guided channels, the variance."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.types import DenoiserOutput, InputError
from guidance import ClassifierFree, Guidance, Internal, Scale, StochasticSelf

pytestmark = pytest.mark.usefixtures('quick_compilation')


def masks(depth, skip=0, count=64):
  keys = jax.random.split(jax.random.key(0), count)
  term = StochasticSelf(Scale(1.5), skip)
  drawn = jax.vmap(lambda key: term.keep(depth, key))(keys)
  assert drawn.shape == (count, 1, depth) and drawn.dtype == bool
  return np.asarray(drawn[:, 0])


@pytest.mark.parametrize(('depth', 'skip'), [(3, 1), (5, 3), (12, 2), (28, 4)])
def test_exactly_skip_blocks_are_skipped(depth, skip):
  drawn = masks(depth, skip)
  assert ((~drawn).sum(1) == skip).all()
  assert drawn[:, 0].all()  # never block 0


@pytest.mark.parametrize(
  ('depth', 'skip'), [(3, 1), (6, 1), (12, 1), (13, 2), (28, 2)]
)
def test_default_count(depth, skip):
  assert ((~masks(depth)).sum(1) == skip).all()


def test_all_other_blocks_are_drawn_evenly():
  skipped = (~masks(5, count=2000)).mean(0)
  assert skipped[0] == 0
  np.testing.assert_allclose(skipped[1:], 1 / 4, atol=0.05)


def test_masks_belong_to_their_keys():
  term, key = StochasticSelf(Scale(1.5), 3), jax.random.key(4)
  np.testing.assert_array_equal(term.keep(28, key), term.keep(28, key))
  assert len(np.unique(masks(28, 3), axis=0)) > 50


def test_null_label():
  labels = ClassifierFree(Scale(2)).weak_label(
    jnp.asarray([0, 3, 9]), 10, jax.random.key(0)
  )
  np.testing.assert_array_equal(labels, [10, 10, 10])


@pytest.mark.parametrize(
  ('t', 'value'),
  [(0, 1), (0.299, 1), (0.3, 2.5), (0.5, 2.5), (0.6, 2.5), (0.601, 1), (1, 1)],
)
def test_scale_is_one_outside_its_interval(t, value):
  assert Scale(2.5, 0.3, 0.6).at(jnp.float32(t)) == value


@pytest.mark.parametrize('t', [0.0, 0.5, 1.0])
def test_scale_without_interval_holds_everywhere(t):
  assert Scale(2.5).at(jnp.float32(t)) == 2.5


@pytest.mark.parametrize(
  'interval', [(0.7, 0.3), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.1)]
)
def test_impossible_intervals(interval):
  with pytest.raises(InputError, match='expected 0 <= low < high <= 1'):
    Scale(1.5, *interval)


class Fake:
  """A denoiser whose outputs tell the image, the label and what they are."""

  depth, num_taps, num_classes = 4, 1, 10

  def __init__(self, learned_variance=False):
    self.learned_variance = learned_variance

  def __call__(self, x, t, label, sub=None):
    out = self.one(x, label, 1)
    if sub is None:
      return out
    parts = x[:: sub.every], label[:: sub.every]
    subs = [self.one(*parts, 2 + keep.sum()) for keep in sub.keep]
    return DenoiserOutput(
      out.velocity, out.intermediate, out.variance, tuple(subs)
    )

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


def close(ours, expected, atol):
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=atol)


def predict(guidance, denoiser):
  return guidance.predict(denoiser, X, jnp.float32(0.5), LABEL, KEY)


def refined(label, scale=1.0):
  out = Fake().one(X, jnp.broadcast_to(jnp.asarray(label), 3), 1)
  return out.velocity + (scale - 1) * (out.velocity - out.intermediate[0])


@pytest.mark.parametrize(
  ('guided', 'internal'),
  [(0, 1.7), (1, 1.7), (3, 1.7), (3, 1.0), (5, 1.7), (99, 1.7)],
)
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
  # Neither IG nor S2 beside it is cut to the first channel.
  terms = ClassifierFree(Scale(2.5), 1), StochasticSelf(Scale(1.5))
  both, _ = predict(Guidance(Internal(Scale(1.7)), terms), Fake())
  for alone, first in ((terms[1:], 1), (terms[:1], 0)):
    ours, _ = predict(Guidance(Internal(Scale(1.7)), alone), Fake())
    moved = jnp.abs(both - ours).min((0, 1, 2)) > 1e-3
    expected = [True] * 5 if not first else [True, *[False] * 4]
    np.testing.assert_array_equal(moved, expected)


def test_infinite_difference_of_an_unguided_channel_does_no_harm():
  difference = jnp.asarray([1.0, jnp.inf, jnp.nan])
  term = ClassifierFree(Scale(2), 1)
  np.testing.assert_array_equal(term.transform(difference), [1, 0, 0])


TERMS = {
  'cfg': ClassifierFree(Scale(1.5)),
  's2': StochasticSelf(Scale(1.5)),
}
SETS = [(), ('cfg',), ('s2',), ('cfg', 's2'), ('s2', 'cfg')]


@pytest.mark.parametrize('names', SETS)
def test_variance_is_that_of_the_conditional_row(names):
  terms = tuple(TERMS[name] for name in names)
  guidance = Guidance(Internal(Scale(1.4)), terms)
  plain = Fake(learned_variance=True)
  velocity, variance = predict(guidance, plain)
  np.testing.assert_array_equal(variance, plain.one(X, LABEL, 1).variance)
  # It changes nothing else, and a network without it gives none.
  other, none = predict(guidance, Fake())
  assert none is None
  np.testing.assert_array_equal(velocity, other)
  np.testing.assert_array_equal(
    guidance(plain, X, jnp.float32(0.5), LABEL, KEY), velocity
  )


def test_terms_switch_on_and_off_beside_a_variance():
  plain = Fake(learned_variance=True)
  internal, key = Internal(Scale(1.4)), jax.random.key(3)

  @jax.jit
  def run(cfg, s2, t):
    terms = (ClassifierFree(Scale(cfg, 0.25, 0.5)), StochasticSelf(Scale(s2)))
    return Guidance(internal, terms).predict(plain, X, t, LABEL, key)

  velocities = {}
  for cfg, s2, t in itertools.product((1.0, 1.5), (1.0, 1.25), (0.2, 0.4)):
    velocity, variance = run(cfg, s2, t)
    np.testing.assert_array_equal(variance, plain.one(X, LABEL, 1).variance)
    on = (cfg != 1 and t == 0.4, s2 != 1)
    close(velocity, velocities.setdefault(on, velocity), atol=0)
  assert len(velocities) == 4  # none, either, both
  close(velocities[False, False], refined(LABEL, 1.4), atol=1e-5)
  # Both add up.
  first, second, both = (
    velocities[on] - velocities[False, False]
    for on in ((True, False), (False, True), (True, True))
  )
  assert jnp.abs(first).max() > 0.1 and jnp.abs(second).max() > 0.1
  close(first + second, both, atol=1e-4)
