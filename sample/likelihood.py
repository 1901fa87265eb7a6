"""The probability-flow ODE run from data to noise: inversion, likelihood.

  x_1          = x_0 + integral of v(x_t, t) dt over [0, 1]
  log p_0(x_0) = log N(x_1; 0, I) + integral of div v(x_t, t) dt over [0, 1]

(Song et al. 2021, section 4.3, and appendix D.2: the divergence is estimated
with random signs e as e . (dv/dx) e). The likelihood is that of a density at
noise N(0, I), which paths meet exactly where alpha(1) = 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError
from sample.sampler import integrate
from sample.solvers import RK4, Evaluation, Solver

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


def to_noise(
  velocity: Velocity,
  x: jax.Array,
  grid: np.ndarray | jax.Array,
  solver: Solver = RK4(),  # noqa: B008 - frozen
) -> jax.Array:
  """The noise from which sampling along the same grid makes x, about.

  Args:
    velocity: function of (x, t), t scalar.
    x: (B, H, W, C) data.
    grid: times as for sampling, from 1 to 0.
    solver: deterministic, and such as evaluate at t = 0 without harm.

  Raises:
    InputError: for a solver that draws noise, remembers or chooses its steps.
  """
  fixed = not (solver.stochastic or solver.adaptive)
  if not fixed or jax.tree.leaves(solver.init(x)):
    raise InputError(
      f'{type(solver).__name__} cannot run backwards; choose euler, heun, '
      'midpoint, rk4 or ddim.'
    )

  def evaluate(x, t, n, memory):
    del n
    return Evaluation(velocity(x, t), None, memory)

  return integrate(evaluate, solver, x, jnp.asarray(grid)[::-1])[0]


def log_likelihood(
  velocity: Velocity,
  x: jax.Array,
  grid: np.ndarray | jax.Array,
  key: jax.Array,
  solver: Solver = RK4(),  # noqa: B008 - frozen
) -> tuple[jax.Array, jax.Array]:
  """Log density of data, in nats, estimated with one probe for each image.

  Args:
    velocity: as for `to_noise`; of an image alone, not of its batch; and
      such as allows jax.jvp: not with model.attention=cudnn on a GPU.
    x: (B, H, W, C) data.
    grid: times as for sampling, from 1 to 0.
    key: of the probes.
    solver: as for `to_noise`.

  Returns:
    (B,), and the noise that x goes to.
  """
  probe = jax.random.rademacher(key, x.shape, x.dtype)

  def flat(x, divergence):
    """One array for both, (B, H W C + 1), as solvers step arrays."""
    return jnp.concatenate([x.reshape(len(x), -1), divergence[:, None]], 1)

  def joint(y, t):
    at = y[:, :-1].reshape(x.shape)
    v, along = jax.jvp(lambda x: velocity(x, t), (at,), (probe,))
    return flat(v, jnp.sum(probe * along, axis=range(1, x.ndim)))

  y = to_noise(joint, flat(x, jnp.zeros(len(x), x.dtype)), grid, solver)
  noise = y[:, :-1].reshape(x.shape)
  normal = jax.scipy.stats.norm.logpdf(noise).sum(range(1, x.ndim))
  return normal + y[:, -1], noise


def bits_per_dimension(log_density: jax.Array, dimensions: int) -> jax.Array:
  """Returns the bits per dimension of a log density in nats."""
  return -log_density / (dimensions * np.log(2))
