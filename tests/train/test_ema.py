"""The moving average against its closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from dit.types import InputError
from train import ema
from train.ema import EMAConfig

PARAMS = np.random.default_rng(0).normal(size=(41, 3)).astype(np.float32)


def averaged(config, count, first=0):
  """The average after `count` updates, starting from PARAMS[0]."""
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


def test_ramp_forgets_the_initialisation():
  config = EMAConfig(0.9999, ramp=True)
  # d_0 = 1 / 10: nine tenths of the first update are taken over.
  np.testing.assert_allclose(
    averaged(config, 1), 0.1 * PARAMS[0] + 0.9 * PARAMS[1], rtol=1e-5
  )


def test_ramp_ends_at_the_decay():
  late = averaged(EMAConfig(0.9, ramp=True), 5, first=1000)
  np.testing.assert_array_equal(
    late, averaged(EMAConfig(0.9, ramp=False), 5, first=1000)
  )


@pytest.mark.parametrize('decay', [-0.1, 1.0, 2.0])
def test_decay_out_of_range_is_refused(decay):
  with pytest.raises(InputError, match=r'ema\.decay'):
    EMAConfig(decay, ramp=False)
