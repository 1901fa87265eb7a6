"""Tests guidance scales: their intervals, schedules and means over time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import LABEL, guided, plain

from guidance import Scale, parse

UNIFORM = (jnp.arange(4000) + 0.5) / 4000  # midpoints from t = 0 to t = 1


@pytest.mark.parametrize(('t', 'value'), [
  (0, 1), (np.nextafter(np.float32(0.3), np.float32(0)), 1),
  (0.3, 2.5), (0.5, 2.5), (0.6, 2.5),
  (np.nextafter(np.float32(0.6), np.float32(1)), 1), (1, 1),
])  # fmt: skip
def test_scale_is_one_outside_its_closed_interval(t, value):
  assert Scale(2.5, 0.3, 0.6).at(jnp.float32(t)) == value
  # Adaptive solvers go below t = 0 and above t = 1, where scales are constant.
  for beyond in (-0.2, 1.1):
    inside = Scale(2.5, 0.0, 0.6).at(jnp.float32(beyond)) == 2.5
    assert inside == (beyond < 0)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
@pytest.mark.parametrize('value', [0.5, 1.0, 4.0])
def test_linear_and_cosine_have_the_mean_of_the_constant(schedule, value):
  scales = Scale(value, schedule=schedule).at(UNIFORM)
  np.testing.assert_allclose(scales.mean(), value, rtol=1e-5)
  constant = Scale(value).at(UNIFORM)
  np.testing.assert_allclose(scales.mean(), constant.mean(), rtol=1e-5)
  if value > 1:
    assert (np.diff(scales) < 0).all()  # The scale rises as t falls to 0.


@pytest.mark.parametrize('power', [0.5, 1.0, 2.0, 4.0])
def test_mean_of_power_cosine(power):
  # The mean of cos(pi u^s) is the sum of (-1)^k pi^2k / (2k)! / (2 k s + 1).
  mean = math.fsum(
    (-1) ** k * math.pi ** (2 * k) / math.factorial(2 * k) / (2 * k * power + 1)
    for k in range(30)
  )
  scale = Scale(3.8, schedule='power_cosine', power=power)
  expected = 1 + 2.8 * (1 - mean) / 2
  np.testing.assert_allclose(scale.at(UNIFORM).mean(), expected, rtol=1e-4)


@pytest.mark.parametrize(('schedule', 'expected'), [
  ('linear', lambda t: 1 + 3 * 2 * (1 - t)),
  ('cosine', lambda t: 1 + 3 * (1 + np.cos(np.pi * t))),
  # In MDT, the scale is 1 at t = 1 (noise), and largest at t = 0 (data).
  ('power_cosine', lambda t: 1 + 3 * (1 - np.cos(np.pi * (1 - t) ** 4)) / 2),
])  # fmt: skip
def test_schedules(schedule, expected):
  scale = Scale(4.0, 0.2, 0.9, schedule)
  for t in (0.2, 0.4, 0.55, 0.9):
    ours = scale.at(jnp.float32(t))
    np.testing.assert_allclose(ours, expected(np.float32(t)), rtol=1e-5)
  for t in (0.0, 0.19, 0.91, 1.0):
    assert scale.at(jnp.float32(t)) == 1


def test_schedule_acts_on_the_difference():
  for t in (0.2, 0.8):
    ours = guided('cfg:3:schedule=linear', t)
    strong, null = plain(t=t), plain(jnp.full_like(LABEL, 10), t)
    expected = strong + 2 * 2 * (1 - t) * (strong - null)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_interval_of_all_times_is_no_interval():
  assert parse('cfg:2.5@0-1') == parse('cfg:2.5')
  whole = Scale(2.5, 0.0, 1.0).at(UNIFORM)
  np.testing.assert_array_equal(whole, np.full(4000, 2.5, np.float32))


def test_scale_and_interval_are_leaves_and_the_rest_is_not():
  scale = Scale(2.0, 0.1, 0.9, 'power_cosine', 3.0)
  assert jax.tree.leaves(scale) == [2.0, 0.1, 0.9]
  halved = jax.tree.map(lambda value: value / 2, scale)
  assert halved == Scale(1.0, 0.05, 0.45, 'power_cosine', 3.0)


def test_another_interval_compiles_nothing():
  at = jax.jit(lambda guidance, t: guidance.terms[0].scale.at(t))
  times = jnp.asarray([0.1, 0.3, 0.8])
  for text, expected in (
    ('cfg:2@0-0.2', [2, 1, 1]), ('cfg:3@0.3-0.7', [1, 3, 1]),
    ('cfg:4', [4, 4, 4]),
  ):  # fmt: skip
    np.testing.assert_array_equal(at(parse(text), times), expected)
  assert at._cache_size() == 1
