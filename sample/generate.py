"""Many images: the plan of labels, batches over the devices, decoding.

Plans of labels, for images 0, 1, 2, ...:

  balanced   i mod num_classes
  random     drawn with image i's own key
  3 or 3,5   these classes, in turn

Image i has the same label and noise whatever the batch size, the devices or
the number of images; what the network makes of them differs by rounding alone.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from dit import latents
from dit.autoencoder import Autoencoder
from dit.config import check_choice
from dit.path import Path
from dit.sharding import batch_sharding, check_batch, replicated
from dit.types import Denoiser, InputError
from guidance import Guidance
from sample import sampler
from sample.discrete import discrete_grid
from sample.grid import make_grid
from sample.registry import check_solver, make_solver
from sample.solvers import Solver


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """How to integrate, and how many images at once.

  Attributes:
    solver: as `sample.registry` reads it, such as 'heun' or 'ddim:eta=0.5'.
    steps: solver steps.
    shift: of the grid, above 1 for more steps near the noise.
    last: length of a last step of its own; 0 for a uniform grid.
    respacing: if not empty, DiT's steps instead; see `discrete_grid`.
    scales_at: where guidance reads its scales; 'step' or 'evaluation'.
    batch_size: images per compiled call, over all devices.
  """

  solver: str
  steps: int
  shift: float
  last: float
  respacing: str
  scales_at: str
  batch_size: int

  def __post_init__(self) -> None:
    """Checks names and ranges."""
    check_solver(self.solver)
    check_choice('sample.scales_at', self.scales_at, sampler.SCALES_AT)
    self.grid()

  def grid(self) -> np.ndarray:
    """The times, (steps + 1,)."""
    if self.respacing:
      return discrete_grid(self.respacing)
    return make_grid(self.steps, shift=self.shift, last=self.last)

  def make_solver(self, path: Path) -> Solver:
    """The one-step rule."""
    return make_solver(self.solver, path)


def plan_labels(plan: str, num: int, num_classes: int, seed: int) -> np.ndarray:
  """Labels of images 0 to num - 1, (num,) int32.

  Raises:
    InputError: for an unknown plan, or a class out of range.
  """
  index = np.arange(num)
  if plan == 'balanced':
    return (index % num_classes).astype(np.int32)
  if plan == 'random':
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.fold_in(jax.random.key(seed), sampler.LABELS), index
    )
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))
    return np.asarray(draw(keys), np.int32)
  try:
    classes = np.asarray([int(part) for part in plan.split(',')], np.int32)
  except (ValueError, OverflowError) as error:
    raise InputError(
      f'labels {plan!r}: expected balanced, random, or classes such as 3 or '
      '3,5,7.'
    ) from error
  if classes.min() < 0 or classes.max() >= num_classes:
    raise InputError(
      f'labels {plan!r}: classes lie between 0 and {num_classes - 1}.'
    )
  return classes[index % len(classes)]


def check(
  config: SampleConfig,
  guidance: Guidance,
  denoiser: Denoiser,
  mesh: Mesh,
  path: Path,
) -> None:
  """Raises InputError if the parts do not fit; compiles nothing."""
  guidance.check(denoiser)
  solver = config.make_solver(path)
  if solver.learned_variance and not denoiser.learned_variance:
    raise InputError(
      f'sample.solver {config.solver} needs a network that learned its '
      'variance (DiT); choose ddpm:variance=small.'
    )
  check_batch(mesh, config.batch_size, 'sample.batch_size')


def generate(
  denoiser: Denoiser,
  guidance: Guidance,
  labels: np.ndarray,
  config: SampleConfig,
  *,
  path: Path,
  shape: tuple[int, int, int],
  mesh: Mesh,
  seed: int,
  autoencoder: Autoencoder | None = None,
  progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
  """Draws and decodes one image for each label.

  Args:
    denoiser: the network, its parameters placed on `mesh`.
    guidance: the method.
    labels: (n,) int, of images 0 to n - 1.
    config: how to integrate.
    path: of the network's velocity.
    shape: (H, W, C) of a latent.
    mesh: the devices.
    seed: of all noise.
    autoencoder: decodes, its weights placed on `mesh`; None for pixels.
    progress: called with the number of images done after each batch.

  Returns:
    (n, H, W, C) uint8, of the images' size.
  """
  check(config, guidance, denoiser, mesh, path)
  grid = jax.device_put(config.grid(), replicated(mesh))
  guidance = jax.device_put(
    jax.tree.map(jnp.float32, guidance), replicated(mesh)
  )
  solver = config.make_solver(path)

  # Replicated, so that every process can read all of it.
  @functools.partial(jax.jit, out_shardings=replicated(mesh))
  def decode(autoencoder, x):
    if autoencoder is not None:
      x = autoencoder.decode(autoencoder.denormalise(x))
    return latents.to_pixels(x), jnp.isfinite(x).all((1, 2, 3))

  # Every batch has the same size, so that one program serves all: the last
  # one is filled up with images that are then dropped.
  size = config.batch_size
  count = len(labels)
  index = np.arange(-(-count // size) * size, dtype=np.int32)
  labels = np.pad(labels, (0, len(index) - count), mode='edge')
  images = []
  for start in range(0, len(index), size):
    part = slice(start, start + size)
    label, number = jax.device_put(
      (labels[part], index[part]), batch_sharding(mesh)
    )
    with jax.set_mesh(mesh):
      x = sampler.sample(
        denoiser,
        guidance,
        label,
        number,
        grid,
        jnp.uint32(seed),
        solver=solver,
        shape=shape,
        scales_at=config.scales_at,
      )
    image, finite = jax.device_get(decode(autoencoder, x))
    images.append(image)
    if not finite.all():
      logging.warning(
        '%d of %d images are not finite, and black: the scale or the solver '
        'may be too much for the network.',
        (~finite).sum(),
        size,
      )
    progress(min(start + size, count))
  return np.concatenate(images)[:count]
