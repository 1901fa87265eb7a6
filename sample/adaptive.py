"""Dormand-Prince 5(4), an ODE solver with adaptive steps.

The error of a step is the root mean square, over the whole batch, of the
embedded error estimate divided by

  tolerance = atol + rtol max(|x|, |x_next|)

A step is accepted if its error is at most 1, and repeated otherwise. The next
step has the length of this step times 0.9 error^(-1/5). The factor is clipped
to [0.2, 10], or to [1, 10] for errors below 1. Without `overshoot`, the last
step is shortened to stop at the end. With `overshoot`, the last step may pass
the end, as in torchdiffeq (SiT's published results). A quartic interpolation
(Shampine 1986) then gives the state at the end; no tolerance controls its
error. The length of the first step follows Hairer, Norsett & Wanner, II.4.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import check_range

# Nodes and weights (Dormand & Prince 1980); the last row gives the new state.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
  (1 / 5,),
  (3 / 40, 9 / 40),
  (44 / 45, -56 / 15, 32 / 9),
  (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
  (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
  (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Weights of order 5 minus the weights of the embedded method of order 4.
_ERROR = (
  35 / 384 - 1951 / 21600,
  0.0,
  500 / 1113 - 22642 / 50085,
  125 / 192 - 451 / 720,
  -2187 / 6784 + 12231 / 42400,
  11 / 84 - 649 / 6300,
  -1 / 60,
)
# Weights that give the state in the middle of a step.
_MIDDLE = (
  6025192743 / 30085553152 / 2,
  0.0,
  51252292925 / 65400821598 / 2,
  -2691868925 / 45128329728 / 2,
  187940372067 / 1594534317056 / 2,
  -1776094331 / 19743644256 / 2,
  11237099 / 235043384 / 2,
)
Slope = Callable[[jax.Array, jax.Array], jax.Array]
_SAFETY, _SHORTEST, _LONGEST = 0.9, 0.2, 10.0


@dataclasses.dataclass(frozen=True)
class Dopri5:
  """Settings of `dopri5`, which integrates from t = 1 to t = 0 without a grid.

  Step lengths depend on the error over the whole batch. Within the tolerance,
  an image therefore depends on the other images of its batch.
  """

  rtol: float = 1e-3
  atol: float = 1e-6
  max_steps: int = 1000
  overshoot: bool = False
  adaptive = True
  stochastic = learned_variance = ddim = False

  def __post_init__(self) -> None:
    check_range('solver dopri5 rtol', self.rtol, 1e-12, 1)
    check_range('solver dopri5 atol', self.atol, 1e-12, 1)
    check_range('solver dopri5 max_steps', self.max_steps, 1, 10**9)


def dopri5(
  velocity: Slope,
  x: jax.Array,
  span: tuple[float, float] = (1.0, 0.0),
  *,
  rtol: float = 1e-3,
  atol: float = 1e-6,
  max_steps: int = 1000,
  overshoot: bool = True,
  cost: Callable[[jax.Array], jax.Array] = lambda t: jnp.float32(1),
) -> tuple[jax.Array, jax.Array]:
  """Integrates dx/dt = velocity(x, t) over a span of times.

  Args:
    velocity: Function of state and scalar time. With `overshoot`, some
      evaluations are beyond the end.
    x: State at the start.
    span: Start and end time; integration may run in either direction.
    rtol: Relative tolerance of a step.
    atol: Absolute tolerance of a step.
    max_steps: Maximum number of steps; the state is NaN if more are needed.
    overshoot: Whether the last step may pass the end.
    cost: Function from time to the cost of an evaluation.

  Returns:
    The state at the end, and the total cost of all evaluations.
  """
  start, end = span
  length, sign = abs(end - start), float(np.sign(end - start))

  def slope(x, s):
    """Returns dx/ds with s = |t - start|."""
    return sign * velocity(x, start + sign * s)

  f = slope(x, jnp.zeros((), x.dtype))
  h, probe = _first_step(slope, x, f, rtol, atol)

  def cost_at(s):
    return jnp.float32(cost(start + sign * s))

  zero = jnp.zeros((), x.dtype)
  # The loop ends when an accepted step reaches the end.
  total = cost_at(zero) + cost_at(probe)
  carry = (zero, h, x, f, x, jnp.int32(0), total)

  def continues(carry):
    s, *_, steps, _ = carry
    return (s < length) & (steps < max_steps)

  def body(carry):
    s, h, x, f, result, steps, total = carry
    s_next = s + h
    if not overshoot:
      s_next = jnp.minimum(s_next, length)
      h = s_next - s
    total += sum(cost_at(s + node * h) for node in _NODES)
    stages = _stages(slope, x, f, s, h)
    x_next = x + h * _combine(_STAGES[-1], stages)
    tolerance = atol + rtol * jnp.maximum(jnp.abs(x), jnp.abs(x_next))
    error = _rms(h * _combine(_ERROR, stages) / tolerance)
    is_accepted = error <= 1
    endpoint = x_next
    if overshoot:
      endpoint = _interpolate(x, x_next, stages, h, (length - s) / h)
    updates = (s_next, x_next, stages[-1], endpoint)
    s, x, f, result = (
      jnp.where(is_accepted, update, state)
      for update, state in zip(updates, (s, x, f, result), strict=True)
    )
    return s, h * _factor(error), x, f, result, steps + 1, total

  s, *_, result, _, total = jax.lax.while_loop(continues, body, carry)
  return jnp.where(s >= length, result, jnp.nan), total


def _stages(
  slope: Slope, x: jax.Array, f: jax.Array, s: jax.Array, h: jax.Array
) -> list[jax.Array]:
  """Returns the seven slopes of a step; the last slope starts the next step."""
  stages = [f]
  for node, weights in zip(_NODES, _STAGES, strict=True):
    stages.append(slope(x + h * _combine(weights, stages), s + node * h))
  return stages


def _interpolate(
  x: jax.Array,
  x_next: jax.Array,
  stages: Sequence[jax.Array],
  h: jax.Array,
  u: jax.Array,
) -> jax.Array:
  """Returns the quartic interpolation at the fraction u of a step."""
  middle = x + h * _combine(_MIDDLE, stages)
  f, f_next = h * stages[0], h * stages[-1]
  a = 2 * (f_next - f) - 8 * (x_next + x) + 16 * middle
  b = 5 * f - 3 * f_next + 18 * x + 14 * x_next - 32 * middle
  c = f_next - 4 * f - 11 * x - 5 * x_next + 16 * middle
  return (((a * u + b) * u + c) * u + f) * u + x


def _first_step(
  slope: Slope, x: jax.Array, f: jax.Array, rtol: float, atol: float
) -> tuple[jax.Array, jax.Array]:
  """Returns the length of the first step, and the length of a trial step."""
  scale = atol + rtol * jnp.abs(x)
  size, steepness = _rms(x / scale), _rms(f / scale)
  is_tiny = (size < 1e-5) | (steepness < 1e-5)
  h = jnp.where(is_tiny, 1e-6, 0.01 * size / jnp.where(is_tiny, 1, steepness))
  bend = _rms((slope(x + h * f, h) - f) / scale) / h
  largest = jnp.maximum(steepness, bend)
  is_flat = largest <= 1e-15
  estimate = jnp.where(
    is_flat,
    jnp.maximum(1e-6, h * 1e-3),
    (0.01 / jnp.where(is_flat, 1, largest)) ** 0.2,
  )
  h = h.astype(x.dtype)
  return jnp.minimum(100 * h, estimate).astype(x.dtype), h


def _factor(error: jax.Array) -> jax.Array:
  """Returns the ratio of the next step's length to this step's length."""
  shortest = jnp.where(error < 1, 1.0, _SHORTEST)
  factor = jnp.maximum(_SAFETY / jnp.maximum(error, 1e-30) ** 0.2, shortest)
  return jnp.minimum(factor, _LONGEST).astype(error.dtype)


def _combine(
  weights: Sequence[float], stages: Sequence[jax.Array]
) -> jax.Array:
  pairs = zip(weights, stages, strict=False)
  parts = (weight * stage for weight, stage in pairs if weight)
  return sum(parts, jnp.zeros((), stages[0].dtype))


def _rms(x: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.mean(jnp.square(x)))
