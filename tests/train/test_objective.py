"""The loss, its terms, and the random draws behind it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dit.path import path_named
from dit.types import DenoiserOutput, InputError
from train import objective
from train.objective import ObjectiveConfig

CONFIG = ObjectiveConfig(
  path='linear',
  time_sampling='uniform',
  time_mean=0.0,
  time_std=1.0,
  label_dropout=0.0,
  intermediate_weights=(0.5,),
)
CLASSES = 10


class Spy:
  """A denoiser of constants that remembers what it was asked."""

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


def run_loss(config=CONFIG, taps=(2, 4), constants=(0.0, 1.0, -2.0), count=64):
  spy = Spy(*constants)
  x0 = jax.random.normal(jax.random.key(5), (count, 4, 4, 2))
  label = jnp.arange(count) % CLASSES
  total, terms = objective.loss(spy, config, taps, x0, label, jax.random.key(3))
  return spy, x0, label, total, terms


def test_terms_are_named_after_taps():
  terms = run_loss()[-1]
  assert list(terms) == ['velocity', 'intermediate_2', 'intermediate_4']


@pytest.mark.parametrize('weights', [(0.5,), (0.3, 0.7), (0.0, 2.0)])
def test_total_is_the_weighted_sum(weights):
  config = change(intermediate_weights=weights)
  *_, total, terms = run_loss(config)
  first, second = weights * 2 if len(weights) == 1 else weights
  expected = (
    terms['velocity']
    + first * terms['intermediate_2']
    + second * terms['intermediate_4']
  )
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_without_taps_the_loss_is_the_velocity_term():
  *_, total, terms = run_loss(taps=(), constants=(0.0,))
  assert list(terms) == ['velocity']
  assert total == terms['velocity']


def test_terms_are_mean_squared_errors_of_the_velocity():
  spy, x0, _, _, terms = run_loss()
  # On the linear path x = (1 - t) x0 + t noise and target = noise - x0.
  t = spy.t[:, None, None, None]
  noise = (spy.x - (1 - t) * x0) / t
  assert stats.kstest(np.ravel(noise), 'norm').pvalue > 1e-3
  for value, name in zip(spy.constants, terms, strict=True):
    expected = jnp.square(value - (noise - x0)).mean()
    np.testing.assert_allclose(terms[name], expected, rtol=1e-3)


def test_losses_are_float32():
  *_, total, terms = run_loss()
  assert total.dtype == jnp.float32
  assert all(term.dtype == jnp.float32 for term in terms.values())


@pytest.mark.parametrize('rate', [0.0, 0.1, 0.5, 1.0])
def test_labels_are_dropped_at_the_rate(rate):
  spy = Spy(0.0)
  label = jnp.arange(20_000) % CLASSES
  x0 = jnp.zeros((len(label), 1, 1, 1))
  objective.loss(
    spy, change(label_dropout=rate), (), x0, label, jax.random.key(0)
  )
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
  objective.loss(other, CONFIG, (2, 4), x0, label, jax.random.key(4))
  np.testing.assert_array_equal(draws[0].x, draws[1].x)
  assert bool((other.t != spy.t).all())
  assert bool((other.x != spy.x).all())


@pytest.mark.parametrize(
  'weights, taps, expected',
  [
    ((0.5,), 0, ()),
    ((0.5,), 1, (0.5,)),
    ((0.5,), 3, (0.5, 0.5, 0.5)),
    ((0.1, 0.2), 2, (0.1, 0.2)),
  ],
)
def test_weights_serve_taps(weights, taps, expected):
  assert change(intermediate_weights=weights).weights(taps) == expected


@pytest.mark.parametrize('weights, taps', [((0.1, 0.2), 3), ((1, 2, 3), 2)])
def test_weights_must_match_taps(weights, taps):
  with pytest.raises(InputError, match=f'{len(weights)} values for {taps}'):
    change(intermediate_weights=weights).weights(taps)


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('label_dropout', -0.1, 'label_dropout is -0.1'),
    ('label_dropout', 1.1, 'label_dropout is 1.1'),
    ('time_sampling', 'logitnormal', "Did you mean 'logit_normal'"),
    ('path', 'linaer', "Did you mean 'linear'"),
  ],
)
def test_wrong_settings_are_refused(key, value, message):
  with pytest.raises(InputError, match=message):
    change(**{key: value})
