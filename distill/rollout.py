"""Runs a student along the student's time grid, with the sampler's steps.

The grid is t_1 = 1 > ... > t_N > 0. The student G goes from noise at t_1 to a
state z at t_k, without gradient (backward simulation). At z, G predicts

  v = G(z, t_k),   x = x0 implied by v

k is uniform over the trained steps. A batch has one k, as in DMD2 (arXiv
2405.14867). With `distill.step_per_image`, each image has its own k, as in
DMDR's repository (vvvvvjdy/dmdr). In DMDR, the state at t_k is the student's
prediction at t_k, noised to t_k. Our state is the sampler's state at t_k, so
training and sampling agree. If N is 1, DMDR's state and ours are pure noise.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill.config import DistillConfig
from distill.noise_levels import trained_steps
from dit import backbone
from dit.base import NetworkConfig, Params
from dit.path import Path, expand
from dit.sharding import constrain_batch
from dit.types import Denoiser
from sample.solvers import Euler, Evaluation, Interval, Renoise

_sg = jax.lax.stop_gradient


class Visit(NamedTuple):
  """State and predictions of the student at one step.

  Attributes:
    k: Index of the step, scalar or (B,).
    t: Time of the step, shaped like `k`.
    z: State after the student's earlier steps, (B, H, W, C).
    v: Velocity that the student predicts at `z`.
    x: Prediction of x0 that the velocity implies.
  """

  k: jax.Array
  t: jax.Array
  z: jax.Array
  v: jax.Array
  x: jax.Array


@dataclasses.dataclass(frozen=True)
class Rollout:
  """A student, its teacher and the student's time grid.

  Attributes:
    config: Section `distill`.
    student: Network of the student.
    teacher: Network of the teacher; that of the fake denoiser has no taps.
    path: Path between data and noise (`dit.path`) of both networks.
    solver: Solver that computes the student's steps.
    times: Grid of the student, N + 1 times.
    batch_size: Number of images, B.
    moments: Mean and standard deviation of data, for 'mean_variance'.
  """

  config: DistillConfig
  student: NetworkConfig
  teacher: NetworkConfig
  path: Path
  solver: Euler | Renoise
  times: tuple[float, ...]
  batch_size: int
  moments: tuple[float, ...] = ()

  @property
  def grid(self) -> jax.Array:
    """Returns the student's grid of times, (N + 1,) float32."""
    return jnp.asarray(self.times, jnp.float32)

  def draw_labels(self, key: jax.Array) -> jax.Array:
    """Samples labels (B,) uniformly over the classes."""
    shape, classes = (self.batch_size,), self.student.num_classes
    return constrain_batch(jax.random.randint(key, shape, 0, classes))

  def noise(self, key: jax.Array) -> jax.Array:
    """Samples standard normal noise, (B, H, W, C)."""
    shape = (self.batch_size, *self.student.latent_shape)
    return constrain_batch(jax.random.normal(key, shape))

  def draw_shared(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Samples times uniformly from t_2 ... t_N."""
    return jax.random.choice(key, self.grid[1:-1], shape)

  def draw_step(self, key: jax.Array) -> jax.Array:
    """Samples the index k of a trained step, scalar or (B,)."""
    steps = jnp.asarray(trained_steps(self.config.branch, np.array(self.times)))
    if not self.config.step_per_image:
      return jax.random.choice(key, steps)
    return constrain_batch(jax.random.choice(key, steps, (self.batch_size,)))

  def roll_out(
    self, student: Denoiser, label: jax.Array, k: int | jax.Array,
    key: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """Returns the state that the student reaches at t_k, without gradient."""
    return self._roll_out(student, label, k, key, None)[0]

  def roll_out_and_predict(
    self, student: Denoiser, label: jax.Array, k: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the state after all steps, and the x0 predicted at step k."""
    return self._roll_out(student, label, len(self.times) - 1, key, k)

  def _roll_out(self, student, label, k, key, index):
    grid, is_batch = self.grid, jnp.ndim(k) > 0

    def step(j, carry):
      x, x0 = carry
      t = jnp.full(len(x), grid[j])
      first = Evaluation(student(x, t, label).velocity)
      noise = None
      if self.solver.stochastic:
        noise = self.noise(jax.random.fold_in(key, j))
      x_next = self.solver.step(Interval(x, grid[j], grid[j + 1], first, noise))
      if is_batch:  # an image that has reached its own step k stays there
        x_next = jnp.where(expand(j < k, x), x_next, x)
      if index is not None:
        estimate = self.path.x0_from_velocity(x, first.velocity, grid[j])
        x0 = jnp.where(expand(index == j, x), estimate, x0)
      return x_next, x0

    start = self.noise(jax.random.fold_in(key, len(self.times)))
    x0_start = None if index is None else jnp.zeros_like(start)
    last = jnp.max(k) if is_batch else k
    return _sg(jax.lax.fori_loop(0, last, step, (start, x0_start)))

  def visit(self, params: Params, label: jax.Array, key: jax.Array) -> Visit:
    """Runs the student to a random step k, and predicts there with gradient."""
    k_key, rollout_key = jax.random.split(key)
    k = self.draw_step(k_key)
    frozen = backbone.bind(self.student, _sg(params))
    z = self.roll_out(frozen, label, k, rollout_key)
    t = self.grid[k]
    times = jnp.broadcast_to(t, len(z))
    v = backbone.bind(self.student, params)(z, times, label).velocity
    return Visit(k, t, z, v, self.path.x0_from_velocity(z, v, t))

  @property
  def rollout_passes(self) -> float:
    """Returns the mean number of network passes in one call of `visit`."""
    n = len(self.times) - 1
    # With one k per image, the loop runs up to the largest k of the batch.
    return n if self.config.step_per_image else (n - 1) / 2 + 1
