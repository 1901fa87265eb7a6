"""The sampler: one `lax.scan` of solver steps over the grid.

Randomness belongs to images and to steps, never to batches: with
key = jax.random.key(seed),

  noise of image i at t = 1       normal(fold_in(key, i))
  noise of image i at step n      normal(fold_in(fold_in(key, i), n))
  choices of guidance at step n   fold_in(fold_in(key, 2^32 - 1), n)
  random label of image i         fold_in(fold_in(key, 2^32 - 2), i)

so an image depends on the batch and the devices that it was made in by rounding
alone: where a device sees as many rows, it is the same bit for bit.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dit.types import Denoiser
from guidance import Guidance
from sample.solvers import Solver

# No image has these indices.
STEPS = np.uint32(2**32 - 1)
LABELS = np.uint32(2**32 - 2)
# Where guidance reads its scales: at the beginning of a solver's step, whose
# stages then follow one vector field (SiT), or where each stage evaluates
# (LightningDiT).
SCALES_AT = ('step', 'evaluation')


def integrate(
  velocity: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  solver: Solver,
  x: jax.Array,
  grid: jax.Array,
  noise: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """Integrates dx/dt = velocity along the grid.

  Args:
    velocity: function of (x, t, n), n the number of the step.
    solver: the rule for one step.
    x: state at grid[0].
    grid: (steps + 1,) decreasing times.
    noise: function of n, standard normal like x; for stochastic solvers.

  Returns:
    The state at grid[-1].
  """

  def body(x, step):
    n, t, t_next = step
    drawn = noise(n) if solver.stochastic else None
    return solver.step(
      lambda x, t: velocity(x, t, n), x, t, t_next, drawn
    ), None

  steps = jnp.arange(len(grid) - 1)
  return jax.lax.scan(body, x, (steps, grid[:-1], grid[1:]))[0]


def step_key(seed: int | jax.Array, n: int | jax.Array) -> jax.Array:
  """Key of guidance's random choices at step n."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STEPS), n)


@functools.partial(jax.jit, static_argnames=('solver', 'shape', 'scales_at'))
def sample(
  denoiser: Denoiser,
  guidance: Guidance,
  label: jax.Array,
  index: jax.Array,
  grid: jax.Array,
  seed: int | jax.Array,
  *,
  solver: Solver,
  shape: tuple[int, int, int],
  scales_at: str = 'step',
) -> jax.Array:
  """Draws latents.

  Scales of guidance and the parameters are arguments of the compiled program:
  a sweep over them compiles once.

  Args:
    denoiser: the network.
    guidance: how its predictions become one velocity.
    label: (B,) int.
    index: (B,) int, numbers of the images.
    grid: (steps + 1,) decreasing times.
    seed: of all randomness.
    solver: the rule for one step.
    shape: (H, W, C) of a latent.
    scales_at: one of SCALES_AT.

  Returns:
    (B, H, W, C) float32.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), index)
  normal = jax.vmap(lambda key: jax.random.normal(key, shape))

  guided = guidance.predict if solver.learned_variance else guidance

  def velocity(x, t, n):
    at = grid[n] if scales_at == 'step' else t
    return guided(denoiser, x, t, label, step_key(seed, n), at=at)

  def noise(n):
    return normal(jax.vmap(jax.random.fold_in, (0, None))(keys, n))

  return integrate(velocity, solver, normal(keys), grid, noise)


def nfe(
  guidance: Guidance,
  solver: Solver,
  grid: np.ndarray,
  depth: int,
  seed: int,
  scales_at: str = 'step',
) -> float:
  """Network evaluations per image, in whole passes of one row.

  S2's count depends on the blocks drawn, hence on the seed.
  """
  evaluations = [
    (n, t if scales_at == 'step' else time)
    for n, (t, t_next) in enumerate(itertools.pairwise(grid.tolist()))
    for time in solver.times(t, t_next)
  ]
  steps, at = map(jnp.asarray, zip(*evaluations, strict=True))
  cost = jax.vmap(lambda n, t: guidance.passes(t, depth, step_key(seed, n)))
  return float(cost(steps, at).sum())
