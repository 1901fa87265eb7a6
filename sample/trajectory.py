"""The effect of guidance along a trajectory, as estimates of the final image.

A film shows some steps of one guided trajectory. At the beginning (x_t, t) of a
step, the strong, weak and guided predictions each estimate the final image,

  x0 = (d_sigma x_t - sigma v) / w        (on the linear path, x0 = x_t - t v)

The distance between strong and weak velocities is

  gap_k(t) = rms over images and elements of (strong - weak_k)

If IG is active, the strong and weak velocities of other methods include IG.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError
from dit.sharding import batch_parts
from guidance import Guidance
from guidance.parse import describe
from sample import nonfinite
from sample.generate import Sampler
from sample.sampler import State, state_and_parts


@dataclasses.dataclass(frozen=True)
class Observer:
  """A `record` of the sampler that calls a function on the host.

  Observers of the same function are equal, so they share a compiled program.
  JAX orders the calls on one device only.
  """

  callback: Callable[[float, np.ndarray], None]
  ordered: bool

  def __call__(self, state: State) -> None:
    """Calls the function with the time and the states (B, H, W, C)."""
    jax.debug.callback(
      lambda t, x: self.callback(float(t), np.asarray(x)),
      state.t,
      state.x,
      ordered=self.ordered,
    )


class Film(NamedTuple):
  """A trajectory of B images in F frames.

  Attributes:
    times: Times (F,), from the noise to the data.
    images: Images (F, B, H, W, C) uint8 by name: 'state' shows x_t, each name
      in `guidance.Guided.parts` shows the x0 of that part, and the last name,
      'guided', shows the guided x0.
    begins: Times (steps,) at which steps begin.
    gaps: Gap at each step (steps,), by method.
  """

  times: np.ndarray
  images: dict[str, np.ndarray]
  begins: np.ndarray
  gaps: dict[str, np.ndarray]

  def __repr__(self) -> str:
    count = self.images['state'].shape[1]
    return f'Film({len(self.times)} frames of {count} images)'


def record_trajectory(
  sampler: Sampler,
  guidance: Guidance,
  labels: np.ndarray,
  seed: int,
  frames: int = 10,
) -> Film:
  """Samples images 0 to B - 1 like `Sampler.batches` and records frames.

  Args:
    sampler: Network and settings of sampling.
    guidance: Guidance method.
    labels: Labels (B,).
    seed: Random seed of all noise.
    frames: Number of evenly spaced steps, including the first and the last.

  Raises:
    InputError: The solver is adaptive, or settings are incompatible.
  """
  sampler.check(guidance)
  config, path = sampler.config, sampler.path
  if sampler.solver.adaptive:
    raise InputError(
      f'sample.solver {config.solver} has no fixed steps to record; choose '
      'another.'
    )
  count, parts = len(labels), batch_parts(sampler.mesh)
  index = np.arange(-(-count // parts) * parts)
  with jax.set_mesh(sampler.mesh), config.precision():
    _, (states, records) = sampler.latents(
      guidance,
      np.resize(labels, len(index)),
      index,
      seed,
      record=state_and_parts,
    )
    states = states[:, :count]
    finite = jnp.isfinite(states).all((0, 2, 3, 4))
    nonfinite.warn(count - int(finite.sum()), count, describe(guidance))
    fields = {**records.parts, 'guided': records.velocity}
    methods = [term.name for term in guidance.terms]
    velocities = {  # restores the order, since jit sorts the names
      name: fields[name][:, :count]
      for name in ('strong', 'ig', 'refined', *methods, 'guided')
      if name in fields
    }
    base = velocities.get('refined', velocities['strong'])
    pairs = [('ig', velocities['strong']), *((m, base) for m in methods)]
    gaps = {
      name: np.sqrt(jnp.square(strong - velocities[name]).mean((1, 2, 3, 4)))
      for name, strong in pairs
      if name in velocities
    }
    times = sampler.grid[:-1]
    indices = np.linspace(0, len(times) - 1, frames).round().astype(int)
    indices = np.unique(indices)

    def render(values):
      return np.stack([sampler.decode(x)[0] for x in values])

    images = {'state': render(states[indices])}
    for name, velocity in velocities.items():
      images[name] = render(
        path.x0_from_velocity(x, v, jnp.asarray(t, x.dtype))
        for x, v, t in zip(
          states[indices], velocity[indices], times[indices], strict=True
        )
      )
    return Film(times[indices], images, times, gaps)
