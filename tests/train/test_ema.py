import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from train import ema
from train.ema import EMAConfig

PARAMS = np.random.default_rng(0).normal(size=(41, 3)).astype(np.float32)


def averaged(config, count, first=0):
  average = {'kernel': jnp.asarray(PARAMS[0])}
  for n in range(count):
    params = {'kernel': jnp.asarray(PARAMS[n + 1])}
    average = ema.update(config, average, params, jnp.int32(first + n))
  return average['kernel']


@pytest.mark.parametrize('decay', [0.0, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize('count', [1, 2, 40])
def test_constant_decay_is_the_weighted_sum(decay, count):
  ages = np.arange(count)[::-1]
  expected = decay**count * PARAMS[0] + (1 - decay) * (
    decay ** ages[:, None] * PARAMS[1 : count + 1]
  ).sum(0)
  ours = averaged(EMAConfig(decay, ramp=False), count)
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('decay', [0.3, 0.9999])
def test_ramp_is_the_smaller_of_both(decay):
  expected = np.float64(PARAMS[0])
  for n in range(40):
    d = min(decay, (1 + n) / (10 + n))
    expected = d * expected + (1 - d) * PARAMS[n + 1]
  ours = averaged(EMAConfig(decay, ramp=True), 40)
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('width, gamma', [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_of_published_widths(width, gamma):
  """The EDM2 paper has these values (arXiv 2312.02696, section 3.1)."""
  assert ema.gamma_of(width) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize('width', [0.03, 0.1, 0.28])
def test_width_is_that_of_the_profile(width):
  """The width is the weighted standard deviation of steps, divided by `n`."""
  n = 2000
  gamma = ema.gamma_of(width)
  beta = (1 - 1 / np.arange(1, n + 1)) ** (gamma + 1)
  weights = (1 - beta) * np.append(np.cumprod(beta[:0:-1])[::-1], 1)
  assert weights.sum() == pytest.approx(1)
  steps = np.arange(1, n + 1) / n
  mean = (weights * steps).sum()
  std = ((weights * (steps - mean) ** 2).sum()) ** 0.5
  assert std == pytest.approx(width, rel=0.02)


def powered(config, count):
  power = tuple({'kernel': jnp.asarray(PARAMS[0])} for _ in config.widths)
  for n in range(count):
    params = {'kernel': jnp.asarray(PARAMS[n + 1])}
    power = ema.update_power(config, power, params, jnp.int32(n))
  return [average['kernel'] for average in power]


def test_power_functions_weigh_late_steps_by_their_exponent():
  config = EMAConfig(0.9, False, widths=(0.05, 0.2), snapshot_images=1)
  for width, ours in zip(config.widths, powered(config, 40), strict=True):
    gamma, expected = ema.gamma_of(width), 0
    for n in range(1, 41):
      beta = (1 - 1 / n) ** (gamma + 1)
      expected = beta * expected + (1 - beta) * PARAMS[n].astype(float)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_late_steps_still_move_the_average():
  """Step n = 4,000,000 has the right effect, though float32 rounds 1 - 1/n."""
  config = EMAConfig(0.9, False, widths=(0.1,), snapshot_images=1)
  zero, one = ({'kernel': jnp.full(3, x)} for x in (0.0, 1.0))
  (moved,) = ema.update_power(config, (zero,), one, jnp.int32(4_000_000 - 1))
  expected = (ema.gamma_of(0.1) + 1) / 4e6
  np.testing.assert_allclose(moved['kernel'], expected, rtol=1e-4)


def walk(count):
  rng = np.random.default_rng(1)
  return np.cumsum(rng.normal(size=(count + 1, 20)), axis=0)


@pytest.mark.parametrize('step', [4000, 3000])
@pytest.mark.parametrize('width', [0.05, 0.07, 0.10, 0.15])
def test_any_width_is_made_of_snapshots(step, width):
  params, count = walk(4000), 4000

  def true(width, step):
    average, gamma = params[0], ema.gamma_of(width)
    for n in range(1, step + 1):
      beta = (1 - 1 / n) ** (gamma + 1)
      average = beta * average + (1 - beta) * params[n]
    return average

  places = itertools.product(range(250, count + 1, 250), (0.05, 0.1))
  snapshots = [(at, of) for at, of in places if at <= step]
  factors = ema.coefficients(snapshots, step, width)
  made = factors @ np.stack([true(of, at) for at, of in snapshots])
  expected = true(width, step)
  error = np.abs(made - expected).max() / np.abs(expected - params[step]).max()
  assert error < (1e-10 if width in (0.05, 0.1) else 5e-3)


def test_coefficients_are_those_of_an_average():
  """Coefficients sum to 1, even for one snapshot or a very different width."""
  for snapshots, step, width in (
    ([(600, 0.05)], 600, 0.1),
    ([(10_000, 0.05), (20_000, 0.1)], 20_000, 0.2),
    ([(10_000, 0.05), (20_000, 0.1)], 20_000, 0.03),
  ):
    factors = ema.coefficients(snapshots, step, width)
    assert factors.sum() == pytest.approx(1)


def test_averages_without_snapshots_are_refused():
  with pytest.raises(InputError, match='snapshot_images is 0'):
    EMAConfig(0.9, False, widths=(0.1,))
