"""The sampler: one compiled scan of solver steps over the guided velocity.

Image i depends only on i and the seed s. The code uses, with key = key(s),

  x at grid[0]                    normal(fold_in(key, i)), times sigma if the
                                  grid starts below 1
  noise of step n                 normal(fold_in(fold_in(key, i), n))
  guidance at step n, batch       fold_in(fold_in(fold_in(key, 2^32 - 1), n), 0)
  guidance at step n, image i     fold_in(fold_in(fold_in(key, i), 2^32 - 1), n)
  random label of image i         fold_in(fold_in(key, 2^32 - 2), i)

so batches and devices change an image only by rounding. If the number of rows
per device is equal, images are bitwise equal.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dit.path import Linear, Path, VariancePreserving
from dit.types import Condition, Denoiser
from guidance import Guidance, Guided, Step
from guidance.base import BlocksTerm
from sample.adaptive import Dopri5, dopri5
from sample.solvers import Evaluation, Interval, Solver

# Key indices that no image uses.
STEPS = np.uint32(2**32 - 1)
LABELS = np.uint32(2**32 - 2)
# Time at which guidance evaluates its scales: the beginning of the solver step
# (as in SiT), or the time of each network evaluation (as in LightningDiT).
SCALES_AT = ('step', 'evaluation')


def integrate(
  evaluate: Callable[[jax.Array, jax.Array, jax.Array, Any], Evaluation],
  solver: Solver,
  x: jax.Array,
  grid: jax.Array,
  noise: Callable[[jax.Array], jax.Array] | None = None,
  memory: Any = (),
  rests: Callable[[jax.Array], jax.Array] | None = None,
  observe: Callable[[jax.Array, jax.Array, jax.Array, Any], Any] | None = None,
) -> tuple[jax.Array, Any]:
  """Integrates dx/dt = velocity along the grid.

  Args:
    evaluate: Function of (x, t, n, memory) for step n. The next step receives
      the memory from the first evaluation of step n.
    solver: Rule for one step.
    x: State at grid[0].
    grid: Decreasing times (steps + 1,).
    noise: Function from n to standard normal noise with the shape of x, for a
      stochastic solver.
    memory: Memory at the first step.
    rests: Function of n that returns whether step n leaves x unchanged; None
      if every step changes x.
    observe: Function of (x, t, n, memory), called before each step.

  Returns:
    The state at grid[-1], and the results of `observe`, stacked by step.
  """

  def advance(carry, step):
    x, memory, state = carry
    n, t, t_next = step
    draw = noise(n) if noise and solver.stochastic else None
    x = solver.perturb(x, t, t_next, draw)
    first = evaluate(x, t, n, memory)
    velocity = lambda x, t: evaluate(x, t, n, memory).velocity  # noqa: E731
    interval = Interval(x, t, t_next, first, draw, velocity)
    x, state = solver.advance(interval, state)
    return x, first.memory, state

  def body(carry, step):
    n, t, _ = step
    record = observe(carry[0], t, n, carry[1]) if observe else None
    if rests is None:
      return advance(carry, step), record
    return jax.lax.cond(
      rests(n), lambda carry, step: carry, advance, carry, step
    ), record

  steps = (jnp.arange(len(grid) - 1), grid[:-1], grid[1:])
  (x, _, _), records = jax.lax.scan(body, (x, memory, solver.init(x)), steps)
  return x, records


def step_key(seed: int | jax.Array, n: int | jax.Array) -> jax.Array:
  """Returns the random key for guidance's choices at step n."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STEPS), n)


def image_keys(seed: int | jax.Array, index: jax.Array) -> jax.Array:
  """Returns the random key of each image, (B,)."""
  key = jax.random.key(seed)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def draw_steps(
  guidance: Guidance,
  denoiser: Denoiser,
  condition: Condition,
  index: jax.Array,
  seed: int | jax.Array,
  steps: int,
) -> tuple[Any, ...]:
  """Samples guidance's random choices; axis 0 of the arrays is the step."""
  fold = jax.vmap(jax.random.fold_in, (0, None))
  keys = fold(image_keys(seed, index), STEPS)

  def draw(n):
    key = jax.random.fold_in(step_key(seed, n), 0)
    return guidance.draw(denoiser, condition, key, fold(keys, n))

  return jax.vmap(draw)(jnp.arange(steps))


def skipped_blocks(
  guidance: Guidance, denoiser: Denoiser, seed: int, steps: int
) -> dict[str, str]:
  """Returns the blocks that each method skips at each step: '3+7 1+2 ...'.

  A slash separates several masks of one step, as in '3+7/1+2'.
  """
  labels = jnp.zeros(1, jnp.int32)
  draws = draw_steps(guidance, denoiser, None, labels, seed, steps)
  return {
    term.name: ' '.join(
      '/'.join('+'.join(map(str, np.flatnonzero(~keep))) for keep in masks)
      for masks in np.asarray(draw)
    )
    for term, draw in zip(guidance.terms, draws, strict=True)
    if isinstance(term, BlocksTerm)
  }


@dataclasses.dataclass(frozen=True)
class Integration:
  """Static settings of the compiled sampler; `shape` is (H, W, C).

  State and guidance are computed in `dtype`; the noise is float32.
  """

  solver: Solver | Dopri5
  shape: tuple[int, int, int]
  path: Path = Linear()  # noqa: RUF009 - frozen
  scales_at: str = 'step'
  dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class State:
  """The state of the sampler before a solver step.

  Attributes:
    denoiser: Network.
    condition: Conditions with leading axis B.
    x: State (B, H, W, C).
    t: Scalar time.
    predict: Function that evaluates the guidance at this state; `predict()`
      returns `guidance.Guided`.
  """

  denoiser: Denoiser
  condition: Condition
  x: jax.Array
  t: jax.Array
  predict: Callable[..., Guided]


def state_and_parts(state: State) -> tuple[jax.Array, Guided]:
  """Returns x and the guided velocity with its parts, for `sample`."""
  return state.x, state.predict(parts=True)


def start_std(solver: Solver | Dopri5, path: Path, t: jax.Array) -> jax.Array:
  """Returns the standard deviation of the noise at the first time t of a grid.

  A grid may start at t < 1, where the noise is smaller. Variance preserving
  paths start from unit variance, as in DiT's code, and so do adaptive solvers,
  which start at t = 1.
  """
  if solver.adaptive or isinstance(path, VariancePreserving):
    return jnp.ones_like(t)
  return jnp.where(t < 1, path.sigma(t), 1)


@functools.partial(jax.jit, static_argnames=('how', 'record'))
def sample(
  denoiser: Denoiser,
  guidance: Guidance,
  condition: Condition,
  index: jax.Array,
  grid: jax.Array,
  seed: int | jax.Array,
  how: Integration,
  record: Callable[[State], Any] | None = None,
  start: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
  """Samples latents (B, H, W, C).

  Scales and parameters are arguments of the compiled program, so that a sweep
  compiles once.

  Args:
    denoiser: Network.
    guidance: Guidance methods.
    condition: Conditions with leading axis B, such as class labels (B,) int.
    index: Indices (B,) int of the images.
    grid: Decreasing times (steps + 1,), or increasing times for inversion.
    seed: Random seed of all noise and random choices.
    how: Solver, shape, path and precision.
    record: Function from the state before each step to arrays, such as
      `state_and_parts`. Adaptive solvers do not support `record`.
    start: State (B, H, W, C) at grid[0]; None for noise from the seed.

  Returns:
    The latents and an extra result. For an adaptive solver, the extra result is
    the number of evaluations per image, as in `nfe`. With `record`, it has the
    records of all steps, stacked. Otherwise, it is None.
  """
  solver, path = how.solver, how.path
  keys = image_keys(seed, index)
  normal = jax.vmap(
    lambda key: jax.random.normal(key, how.shape, jnp.float32).astype(how.dtype)
  )
  grid = grid.astype(how.dtype)
  steps = 1 if solver.adaptive else len(grid) - 1
  draws = draw_steps(guidance, denoiser, condition, index, seed, steps)

  def step_of(t, n):
    time = t
    if how.scales_at == 'step' and not solver.adaptive:
      time = jnp.maximum(grid[n], grid[n + 1])  # the same if inverted
    choices = jax.tree.map(lambda draw: draw[n], draws)
    return Step(time, choices, grid[n + 1], path)

  def evaluate(x, t, n, memory, **options):
    return guidance.predict(
      denoiser, x, t, condition, step_of(t, n), memory, **options
    )

  def observe(x, t, n, memory):
    assert record is not None
    predict = functools.partial(evaluate, x, t, n, memory)
    return record(State(denoiser, condition, x, t, predict))

  def noise(n):
    return normal(jax.vmap(jax.random.fold_in, (0, None))(keys, n))

  if start is None:
    start = normal(keys) * start_std(solver, path, grid[0])
  x = start.astype(how.dtype)
  memory = guidance.init(x)
  if isinstance(solver, Solver):
    rests = None
    if guidance.zero_steps:
      rests = lambda n: guidance.rests(step_of(grid[n], n), n)  # noqa: E731
    return integrate(
      evaluate, solver, x, grid, noise, memory, rests,
      observe if record else None,
    )  # fmt: skip
  return dopri5(
    lambda x, t: evaluate(x, t, 0, memory).velocity,
    x,
    **dataclasses.asdict(solver),
    cost=lambda t: guidance.passes(denoiser, step_of(t, 0)),
  )


def nfe(
  guidance: Guidance,
  denoiser: Denoiser,
  grid: np.ndarray,
  seed: int,
  how: Integration,
) -> float:
  """Returns network evaluations per image, in units of one conditional pass.

  Arguments are as in `sample`. With S2, the result depends on the seed, which
  selects the blocks. For an adaptive solver, `sample` returns the NFE.
  """
  assert isinstance(how.solver, Solver)
  evaluations = [
    (n, t, max(t, t_next) if how.scales_at == 'step' else time, t_next)
    for n, (t, t_next) in enumerate(itertools.pairwise(grid.astype(how.dtype)))
    for time in how.solver.times(t, t_next)
  ]
  numbers = map(jnp.asarray, zip(*evaluations, strict=True))
  labels = jnp.zeros(1, jnp.int32)
  draws = draw_steps(guidance, denoiser, None, labels, seed, len(grid) - 1)

  def cost(n, begin, at, t_next):
    choices = jax.tree.map(lambda draw: draw[n], draws)
    step = Step(at, choices, t_next, how.path)
    first_step = dataclasses.replace(step, at=begin)
    return jnp.where(
      guidance.rests(first_step, n), 0, guidance.passes(denoiser, step)
    )

  costs = jax.vmap(cost)(*numbers)
  return float(np.asarray(costs, np.float64).sum())
