"""Tests the solver dopri5 on fields with known solutions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import RK45

from sample.adaptive import dopri5

# Per field: a function, the state at t = 1, and the exact state at t = 0.
FIELDS = {
  'linear': (lambda x, t: -x, [1.0, -3.0], [math.e, -3 * math.e]),
  # The solution is 1/x(t) = 1/x(1) + t + t^2 - 2.
  'nonlinear': (lambda x, t: -(x**2) * (1 + 2 * t), [0.2, 0.3], [1 / 3, 0.75]),
  # The solution x(0) is x(1) minus the integral of cos(12 t) + t^3.
  'of time alone': (
    lambda x, t: jnp.cos(12 * t) + t**3 + 0 * x,
    [2.0],
    [2.0 - math.sin(12) / 12 - 1 / 4],
  ),
  'rotating': (
    lambda x, t: 20 * jnp.stack([x[1], -x[0]]),
    [1.0, 0.0],
    [math.cos(20), math.sin(20)],
  ),
}
# In this context, JAX creates float64 arrays.
in_float64 = functools.partial(jax.enable_x64, True)
# The tolerances are arguments, so JAX compiles one program per field.
solve = jax.jit(dopri5, static_argnums=0, static_argnames=('span', 'overshoot'))


@functools.cache
def counted(rtol, name='rotating', **options):
  """Solves in float64; returns relative error at t = 0 and number of steps."""
  field, x, exact = FIELDS[name]
  with in_float64():
    out, count = solve(field, jnp.asarray(x), rtol=rtol, atol=rtol / 100,
                        **options)  # fmt: skip
  out = np.asarray(out)
  assert out.dtype == np.float64
  steps, rest = divmod(int(count) - 2, 6)
  assert rest == 0
  return np.linalg.norm(out - exact) / np.linalg.norm(exact), steps


@pytest.mark.parametrize('name', FIELDS)
@pytest.mark.parametrize('rtol', [1e-2, 1e-3, 1e-5])
def test_tolerance_is_met_in_float32(name, rtol):
  field, x, exact = FIELDS[name]
  out, _ = solve(field, jnp.asarray(x), rtol=rtol, atol=rtol / 10)
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, exact, rtol=15 * rtol, atol=15 * rtol)


@pytest.mark.parametrize('rtol', [1e-4, 1e-6, 1e-8, 1e-10])
def test_tolerance_is_met_and_not_outdone(rtol):
  error, _ = counted(rtol)
  assert rtol < error < 10 * rtol  # rtol limits the error of each step.


def test_steps_grow_with_the_fifth_root_of_the_tolerance():
  steps = [counted(rtol)[1] for rtol in (1e-4, 1e-6, 1e-8, 1e-10)]
  assert steps[0] > 10
  np.testing.assert_allclose(np.diff(np.log10(steps)), 2 / 5, atol=0.08)


def test_absolute_tolerance_is_for_small_states():
  # For small states, rtol requires short steps. A large atol allows long steps.
  field, x, exact = FIELDS['rotating']
  loose, tight = (
    solve(field, 1e-4 * jnp.asarray(x), rtol=1e-6, atol=atol)
    for atol in (1e-3, 1e-12)
  )
  assert loose[1] < tight[1] / 3
  np.testing.assert_allclose(tight[0], 1e-4 * np.asarray(exact), atol=1e-8)


def test_constant_field_is_exact():
  noise, x0 = jnp.asarray([1.5, -2.0]), jnp.asarray([0.25, 3.0])
  out, count = solve(lambda x, t: noise - x0, noise)
  np.testing.assert_allclose(out, x0, atol=2e-6)
  assert count <= 20


def test_zero_field_leaves_every_bit():
  x = jnp.asarray([[0.0, 1.0, -1e6]])
  out, count = solve(lambda x, t: jnp.zeros_like(x), x)
  np.testing.assert_array_equal(out, x)
  assert count == 2 + 6 * 7  # Step lengths start at 1e-6 and grow tenfold.


asked = []


@functools.cache
def spied(name):
  """Returns a field that adds the times of its evaluations to `asked`."""

  def spy(x, t):
    jax.debug.callback(lambda t: asked.append(float(t)), t)
    return FIELDS[name][0](x, t)

  return spy


@pytest.mark.parametrize('name', FIELDS)
@pytest.mark.parametrize('rtol', [1e-3, 1e-6])
def test_last_step_cut_to_stop_at_the_end(name, rtol):
  _, x, exact = FIELDS[name]
  asked.clear()
  with in_float64():
    out, count = solve(
      spied(name), jnp.asarray(x), rtol=rtol, atol=rtol / 100, overshoot=False
    )
    jax.block_until_ready(out)
    jax.effects_barrier()
  assert len(asked) == count
  assert min(asked) == 0  # The solver never evaluates below t = 0.
  out = np.asarray(out)
  assert np.linalg.norm(out - exact) < 15 * rtol * np.linalg.norm(exact)


def test_interpolant_of_a_long_last_step_is_less_exact():
  # For data N(0, 1/4) on the linear path, x(0) is half of x(1).
  def field(x, t):
    return x * (t - (1 - t) / 4) / ((1 - t) ** 2 / 4 + t**2)

  x, errors = jnp.linspace(-2, 2, 9), []
  for overshoot in (True, False):
    out, _ = solve(field, x, rtol=1e-3, atol=1e-4, overshoot=overshoot)
    errors.append(np.abs(out - x / 2).max())
  assert errors[1] < 5e-3 < errors[0]


def test_field_that_wakes_up_late_is_not_missed():
  # The field is 0 above t = 0.9, where the solver sets its first step length.
  out, _ = solve(lambda x, t: 0 * x + jnp.maximum(0.9 - t, 0) ** 3, jnp.ones(2))
  np.testing.assert_allclose(out, 1 - 0.9**4 / 4, rtol=1e-3)


def test_under_jit_as_outside():
  field, x, _ = FIELDS['nonlinear']
  integrate = functools.partial(dopri5, rtol=1e-4)
  out, count = integrate(field, jnp.asarray(x))
  jitted = jax.jit(
    lambda scale, x: integrate(lambda x, t: scale * field(x, t), x)
  )
  compiled = jitted(1.0, jnp.asarray(x))
  np.testing.assert_allclose(compiled[0], out, rtol=1e-5)
  assert compiled[1] == count
  still, _ = jitted(0.0, jnp.asarray(x))
  np.testing.assert_array_equal(still, np.float32(x))


def test_batches_of_images_share_their_steps():
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))

  def field(x, t):
    return jnp.sin(3 * x) + t

  out, count = solve(field, x)
  twice, same = solve(field, jnp.concatenate([x, x]))
  assert out.shape == x.shape
  assert count == same
  np.testing.assert_allclose(twice, jnp.concatenate([out, out]), atol=1e-5)
  # For a batch of one image, the solver may take other steps.
  alone, _ = solve(field, x[:1])
  np.testing.assert_allclose(alone, out[:1], atol=1e-2)


@pytest.mark.parametrize(
  ('start', 'end'), [(1.0, 0.0), (0.0, 1.0), (0.25, -0.5), (-0.5, 2.0), (0, 1)]
)
def test_any_two_times(start, end):
  out, _ = solve(lambda x, t: 3 * t**2 + 0 * x, jnp.ones(2),
                 span=(start, end), rtol=1e-5)  # fmt: skip
  np.testing.assert_allclose(out, 1 + end**3 - start**3, rtol=3e-5, atol=3e-5)


def test_there_and_back():
  field, x, _ = FIELDS['nonlinear']
  there, _ = solve(field, jnp.asarray(x), rtol=1e-5)
  back, _ = solve(field, there, span=(0.0, 1.0), rtol=1e-5)
  np.testing.assert_allclose(back, x, rtol=1e-4)


def test_no_time_at_all():
  x = jnp.asarray([1.0, 2.0])
  out, count = solve(lambda x, t: x / 0.01, x, span=(0.4, 0.4))
  np.testing.assert_array_equal(out, x)
  assert count == 2


@pytest.mark.parametrize('name', ['linear', 'rotating'])
def test_too_few_steps_give_nan(name):
  _, steps = counted(1e-5, name)
  assert steps > 2
  assert np.isfinite(counted(1e-5, name, max_steps=steps)[0])
  for fewer in (steps - 1, 1, 0):
    assert np.isnan(counted(1e-5, name, max_steps=fewer)[0])


@pytest.mark.parametrize('where', [1.0, 0.5])
def test_nan_of_the_field_is_nan_at_the_end(where):
  def field(x, t):
    return jnp.where(t > where - 1e-3, -x, jnp.nan)

  out, _ = solve(field, jnp.ones(2), max_steps=50)
  assert jnp.isnan(out).all()


# The embedded method in torchdiffeq has these weights, unlike scipy's method.
EMBEDDED = [1951 / 21600, 0, 22642 / 50085, 451 / 720, -12231 / 42400,
            649 / 6300, 1 / 60]  # fmt: skip
ERROR = [*RK45.B, 0] - np.asarray(EMBEDDED)


def bump(x, t):
  """A pulse at t = 0.45 that multiplies x by exp(25 * 0.08 * sqrt(pi))."""
  return -25 * x * jnp.exp(-(((t - 0.45) / 0.08) ** 2))


def test_sharp_bump_is_resolved_by_rejected_steps():
  """Checks all steps against the tableau in scipy and the documented rules."""
  rtol, atol, asked = 1e-5, 1e-7, []

  def field(x, t):  # x starts with a positive, a negative and a zero entry.
    return bump(x, t) + jnp.asarray([0.0, 0.0, 9.0]) * t

  def spy(x, t):
    asked.append((1 - float(t), np.asarray(x)))
    return field(x, t)

  def slope(s, x):
    return -np.asarray(field(jnp.asarray(x), 1 - s))

  x, s, rejected = np.asarray([1.0, -2.0, 0.0]), 0.0, []
  with in_float64():
    with jax.disable_jit():  # `spy` needs values, not tracers.
      out, count = dopri5(spy, jnp.asarray(x), rtol=rtol, atol=atol)
    assert out.dtype == np.float64
    assert len(asked) == count
    # Two evaluations choose the first step. Each step takes six evaluations.
    steps = [asked[k : k + 6] for k in range(2, len(asked), 6)]
    lengths = [step[5][0] - step[0][0] for step in steps]
    expected_length = None
    for step, length in zip(steps, lengths, strict=True):
      h = length / (4 / 5)
      assert expected_length is None or abs(h / expected_length - 1) < 1e-6
      slopes = [slope(s, x)]
      rows = [*RK45.A[1:], RK45.B]
      nodes = [*RK45.C[1:], 1.0]
      for row, node, (at, state) in zip(rows, nodes, step, strict=True):
        np.testing.assert_allclose(at, s + node * h, rtol=1e-9)
        now = x + h * sum(w * k for w, k in zip(row, slopes, strict=False))
        np.testing.assert_allclose(state, now, rtol=1e-9, atol=1e-15)
        slopes.append(slope(s + node * h, now))
      tolerance = atol + rtol * np.maximum(np.abs(x), np.abs(now))
      error = (h * np.tensordot(ERROR, slopes, 1) / tolerance) ** 2
      error = np.sqrt(error.mean())
      rejected.append(error > 1)
      shortest = 0.2 if error > 1 else 1.0
      expected_length = h * np.clip(0.9 * error**-0.2, shortest, 10)
      if error <= 1:
        assert s < 1  # Every accepted step starts before s = 1.
        s, x = s + h, now
  assert s >= 1
  assert 4 <= sum(rejected) < len(rejected) / 2
  expected = np.asarray([1, -2]) * math.exp(2 * math.sqrt(math.pi))
  np.testing.assert_allclose(out[:2], expected, rtol=1e-3)


def test_sharp_bump_as_in_fixed_steps():
  with in_float64():
    x, n = jnp.asarray([1.0, 0.3]), 4000
    h = -1 / n

    def step(x, k):  # classical RK4
      t = 1 + k * h
      a = bump(x, t)
      b = bump(x + h / 2 * a, t + h / 2)
      c = bump(x + h / 2 * b, t + h / 2)
      d = bump(x + h * c, t + h)
      return x + h / 6 * (a + 2 * b + 2 * c + d), None

    fine, _ = jax.lax.scan(step, x, jnp.arange(n))
    ours, count = solve(bump, x, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours, fine, rtol=1e-6)
    assert count < 6 * 200
    # With a tolerance of 10, the solver misses the bump.
    coarse, fewer = solve(bump, x, rtol=10.0, atol=10.0)
    assert fewer < count / 4
    assert np.isfinite(coarse).all()


def test_float64_state_stays_float64():
  field, x, exact = FIELDS['linear']
  with in_float64():
    out, count = solve(field, jnp.asarray(x), rtol=1e-12, atol=1e-14)
    assert out.dtype == jnp.float64
    assert 100 < count < 2000
    np.testing.assert_allclose(out, exact, rtol=1e-11)


def test_float32_state_where_float64_is_on():
  field, x, exact = FIELDS['linear']
  with in_float64():
    out, _ = solve(field, jnp.asarray(x, jnp.float32))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, exact, rtol=1e-3)
