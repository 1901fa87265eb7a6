"""Tests the training loss, its terms, and the sampled times and labels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from core.errors import InputError
from dit.path import path_named
from dit.types import DenoiserOutput
from train import objective
from train.objective import ObjectiveConfig

CONFIG = ObjectiveConfig(
  path='linear', time_sampling='uniform', time_mean=0.0, time_std=1.0,
  label_dropout=0.0, intermediate_weights=(0.5,),
)  # fmt: skip
CLASSES = 10


class Spy:
  """A denoiser that predicts constants and records its inputs."""

  num_classes = CLASSES

  def __init__(self, *constants):
    self.constants = constants

  def __call__(self, x, t, label, sub=None):
    assert sub is None
    self.x, self.t, self.label = x, t, label
    first, *rest = (jnp.full_like(x, value) for value in self.constants)
    return DenoiserOutput(first, tuple(rest))


def change(**kwargs):
  return dataclasses.replace(CONFIG, **kwargs)


def loss(denoiser, config, taps, x0, label, key):
  drawn = objective.draw(config, x0, label, key, CLASSES)
  return objective.loss_at(denoiser, config, taps, x0, *drawn)


def run_loss(config=CONFIG, taps=(2, 4), constants=(0.0, 1.0, -2.0), count=64):
  spy = Spy(*constants)
  x0 = jax.random.normal(jax.random.key(5), (count, 4, 4, 2))
  label = jnp.arange(count) % CLASSES
  total, terms = loss(spy, config, taps, x0, label, jax.random.key(3))
  return spy, x0, label, total, terms


@pytest.mark.parametrize('weights', [(0.5,), (0.3, 0.7), (0.0, 2.0)])
def test_total_is_the_weighted_sum(weights):
  config = change(intermediate_weights=weights)
  *_, total, terms = run_loss(config)
  first, second = weights * 2 if len(weights) == 1 else weights
  assert list(terms) == ['velocity', 'intermediate_2', 'intermediate_4']
  assert all(t.dtype == jnp.float32 for t in (total, *terms.values()))
  expected = terms['velocity'] + first * terms['intermediate_2']
  expected += second * terms['intermediate_4']
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_without_taps_the_loss_is_the_velocity_term():
  *_, total, terms = run_loss(taps=(), constants=(0.0,))
  assert list(terms) == ['velocity']
  assert total == terms['velocity']


def test_terms_are_mean_squared_errors_of_the_velocity():
  spy, x0, _, _, terms = run_loss()
  # On the linear path, x = (1 - t) x0 + t noise, and the target is noise - x0.
  t = spy.t[:, None, None, None]
  noise = (spy.x - (1 - t) * x0) / t
  assert stats.kstest(np.ravel(noise), 'norm').pvalue > 1e-3
  for value, name in zip(spy.constants, terms, strict=True):
    expected = jnp.square(value - (noise - x0)).mean()
    np.testing.assert_allclose(terms[name], expected, rtol=1e-3)


@pytest.mark.parametrize('rate', [0.0, 0.1, 0.5, 1.0])
def test_labels_are_dropped_at_the_rate(rate):
  spy = Spy(0.0)
  label = jnp.arange(20_000) % CLASSES
  x0 = jnp.zeros((len(label), 1, 1, 1))
  loss(spy, change(label_dropout=rate), (), x0, label, jax.random.key(0))
  dropped = spy.label == CLASSES
  assert bool((dropped | (spy.label == label)).all())
  share = float(dropped.mean())
  if rate in (0, 1):
    assert share == rate
  else:
    assert abs(share - rate) < 4 * (rate * (1 - rate) / len(label)) ** 0.5


def times(config, path='linear', count=20_000):
  t = objective.draw_times(config, path_named(path), jax.random.key(1), count)
  assert t.shape == (count,)
  assert t.dtype == jnp.float32
  assert 0 <= float(t.min()) <= float(t.max()) <= 1
  return np.asarray(t, np.float64)


def test_uniform_times_are_uniform():
  assert stats.kstest(times(CONFIG), 'uniform').pvalue > 1e-3


@pytest.mark.parametrize('mean, std', [(0.0, 1.0), (-0.4, 0.5), (0.8, 1.2)])
@pytest.mark.parametrize('path', ['linear', 'cosine'])
def test_log_ratios_of_logit_normal_times_are_normal(path, mean, std):
  config = change(time_sampling='logit_normal', time_mean=mean, time_std=std)
  t = times(config, path)
  if path == 'linear':  # t = sigmoid(n)
    n = np.log(t / (1 - t))
  else:
    n = np.log(np.tan(np.pi / 2 * t))
  assert stats.kstest((n - mean) / std, 'norm').pvalue > 1e-3


def test_every_key_draws_anew():
  draws = [run_loss()[0]]
  spy, x0, label, _, _ = run_loss()
  draws.append(spy)
  other = Spy(*spy.constants)
  loss(other, CONFIG, (2, 4), x0, label, jax.random.key(4))
  np.testing.assert_array_equal(draws[0].x, draws[1].x)
  assert bool((other.t != spy.t).all())
  assert bool((other.x != spy.x).all())


@pytest.mark.parametrize('weights, taps, expected', [
  ((0.5,), 0, ()), ((0.5,), 1, (0.5,)), ((0.5,), 3, (0.5, 0.5, 0.5)),
  ((0.1, 0.2), 2, (0.1, 0.2)),
])  # fmt: skip
def test_weights_serve_taps(weights, taps, expected):
  assert change(intermediate_weights=weights).weights(taps) == expected


@pytest.mark.parametrize('weights, taps', [((0.1, 0.2), 3), ((1, 2, 3), 2)])
def test_weights_must_match_taps(weights, taps):
  with pytest.raises(InputError, match=f'{len(weights)} values for {taps}'):
    change(intermediate_weights=weights).weights(taps)


class Fixed:
  """A denoiser that always returns the same predictions."""

  num_classes = CLASSES

  def __init__(self, velocity, *intermediate):
    self.output = DenoiserOutput(velocity, intermediate)

  def __call__(self, x, t, label, sub=None):
    return self.output


def states(count=6):
  """Returns x0, noise, t and label. The velocity target is noise - x0."""
  keys = jax.random.split(jax.random.key(8))
  x0, noise = (jax.random.normal(key, (count, 4, 4, 3)) for key in keys)
  return x0, noise, jnp.linspace(0.1, 0.9, count), jnp.arange(count)


def direction(velocity, x0=None):
  """Returns 1 minus the cosine between `velocity` and the target, (B,)."""
  given, *rest = states()
  x0 = given if x0 is None else x0
  path = path_named('linear')
  return objective.velocity_losses(Fixed(velocity), path, x0, *rest)[2]


X0, NOISE, T, LABEL = states()
TARGET = NOISE - X0
OTHER = jax.random.normal(jax.random.key(9), X0.shape)


@pytest.mark.parametrize('length', [1e-4, 1.0, 1e4])
def test_direction_of_parallel_and_opposite_predictions(length):
  # Predictions at different positions have different lengths.
  lengths = length * jnp.exp(OTHER[..., :1])
  for sign, expected in ((1, 0), (-1, 2)):
    ours = direction(sign * lengths * TARGET)
    assert ours.shape == (6,) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_direction_is_taken_across_channels_at_each_position():
  ours = direction(OTHER)
  a, b = np.asarray(OTHER, np.float64), np.asarray(TARGET, np.float64)
  lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  expected = (1 - (a * b).sum(-1) / lengths).mean((1, 2))
  np.testing.assert_allclose(ours, expected, rtol=1e-5)
  # For image 2, the prediction has the wrong sign at one of 16 positions. This
  # position has loss 2, so the loss of image 2 is 2 / 16.
  turned = direction(TARGET.at[2, 1, 3].multiply(-1))
  np.testing.assert_allclose(turned, 2 / 16 * jnp.eye(6)[2], atol=1e-6)


def test_direction_ignores_a_flip_of_both():
  flipped = direction(-OTHER, x0=2 * NOISE - X0)  # The target is -TARGET.
  np.testing.assert_allclose(flipped, direction(OTHER), rtol=1e-5)
  np.testing.assert_allclose(direction(-OTHER), 2 - direction(OTHER), rtol=1e-5)


def cosine_loss(velocity, weight=0.7, intermediate=(OTHER,)):
  config = change(cosine_weight=weight)
  denoiser = Fixed(velocity, *intermediate)
  return objective.loss_at(denoiser, config, (2,), X0, NOISE, T, LABEL)


@pytest.mark.parametrize('length', [0.0, 1e-30, 1e-12, 1e-6])
def test_gradient_is_finite_where_nothing_is_predicted(length):
  total, terms = cosine_loss(length * TARGET)
  assert jnp.isfinite(total)
  if length < 1e-12:
    np.testing.assert_allclose(terms['cosine'], 1, atol=1e-3)
  gradient = jax.grad(lambda v: cosine_loss(v)[0])(length * TARGET)
  assert jnp.isfinite(gradient).all()
  if not length:  # Gradient descent moves toward the target.
    along = (gradient * TARGET).sum(-1)
    assert (along < 0).all()


def test_gradient_is_finite_where_the_target_is_nothing():
  _, *rest = states()

  def loss(velocity):
    path = path_named('linear')
    fixed = Fixed(velocity)
    return objective.velocity_losses(fixed, path, rest[0], *rest)[2].sum()

  assert loss(OTHER) == 6
  assert not jax.grad(loss)(OTHER).any()


def test_cosine_term_is_weighted_and_of_the_final_head_only():
  total, terms = cosine_loss(OTHER)
  assert list(terms) == ['velocity', 'intermediate_2', 'cosine']
  plain, without = cosine_loss(OTHER, weight=0.0)
  assert list(without) == ['velocity', 'intermediate_2']
  assert terms['cosine'] == direction(OTHER).mean()
  np.testing.assert_allclose(total, plain + 0.7 * terms['cosine'], rtol=1e-6)
  # The cosine term does not depend on the prediction at the tap.
  for tap in (TARGET, -TARGET, 0 * TARGET):
    _, ours = cosine_loss(OTHER, intermediate=(tap,))
    assert ours['cosine'] == terms['cosine']

  def of_tap(tap, weight):
    return cosine_loss(OTHER, weight, (tap,))[0]

  gradients = [jax.grad(of_tap)(TARGET / 2, weight) for weight in (0.0, 5.0)]
  np.testing.assert_array_equal(*gradients)


class Two(Fixed):
  """A denoiser with two constant predictions: at the output and at a tap."""

  def __init__(self, velocity, tap):
    self.velocity, self.tap = velocity, tap

  depth = 3

  def null_condition(self, label):
    return jnp.full_like(label, CLASSES)

  def __call__(self, x, t, label, sub=None):
    del t
    full = jnp.full_like(x, self.velocity)
    is_null = (label == CLASSES)[:, None, None, None]
    full = jnp.where(is_null, 0.9, full)
    tap = (jnp.full_like(x, self.tap),)
    if sub is None:
      return DenoiserOutput(full, tap)
    # The prediction of a sub-network is the number of its blocks.
    count = jnp.full_like(x, sub.keep.sum())
    return DenoiserOutput(full, tap, sub=(DenoiserOutput(count),))


@pytest.mark.parametrize(
  ('weak', 'blocks', 'value'),
  [('tap', (), 0.4), ('null', (), 0.9), ('skip', (0, 2), 1.0)],
)
def test_guided_target(weak, blocks, value):
  """The guide adds w (output - weak) to output targets, not to tap targets."""
  network, guide, w = Two(0.3, -0.2), Two(1.3, 0.4), 0.5
  final, (tap,), _ = objective.velocity_losses(
    network, path_named('linear'), X0, NOISE, T, LABEL,
    guide=objective.Guide(guide, w, weak, blocks),
  )  # fmt: skip
  target = NOISE - X0 + w * (1.3 - value)
  expected = jnp.square(0.3 - target).mean((1, 2, 3))
  np.testing.assert_allclose(final, expected, rtol=1e-5)
  expected = jnp.square(-0.2 - (NOISE - X0)).mean((1, 2, 3))
  np.testing.assert_allclose(tap, expected, rtol=1e-5)


def test_guided_target_passes_no_gradient():
  """No gradient flows through the target, even if a network guides itself."""

  def loss_of(v):
    network = Two(v, 0.1)
    return objective.velocity_losses(
      network, path_named('linear'), X0, NOISE, T, LABEL,
      guide=objective.Guide(network, 0.5),
    )[0].mean()  # fmt: skip

  gradient = jax.grad(loss_of)(jnp.float32(0.3))
  target = NOISE - X0 + 0.5 * (0.3 - 0.1)
  np.testing.assert_allclose(gradient, 2 * (0.3 - target).mean(), rtol=1e-4)
