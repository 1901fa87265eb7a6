"""A checkpoint as a function from labels to images, for Python programs.

  from sample import load, tile

  pipeline = load('runs/digits')
  images = pipeline([3, 8] * 8, 'ig:1.5,cfg:1.2@0-0.7', steps=25)
  Image.fromarray(tile(images, columns=8).squeeze())

`load` reads a run, or a folder of weights from `main.py convert`. The images
equal the output of `main.py sample` for equal weights, labels and seed.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, check_choice
from core.ranges import Range, Seed, check_value
from dit.latents import from_pixels
from dit.path import VariancePreserving
from dit.sharding import batch_parts
from dit.types import Denoiser
from guidance import Guidance, parse
from guidance.parse import with_guide
from sample.arguments import (
  Labels,
  check_labels,
  check_states,
  library_terms,
  with_changes,
)
from sample.generate import SampleConfig, Sampler
from sample.interpolation import Blend, between
from sample.sampler import image_keys, start_std
from sample.trajectory import Film, Observer, record_trajectory

OUTPUTS = ('images', 'latents')
# Solvers of the ODE that keep no memory of earlier steps.
INVERTIBLE = ('euler', 'heun', 'midpoint', 'rk4')


@dataclasses.dataclass(frozen=True, repr=False)
class Pipeline:
  """A sampler that accepts class names, and guidance as text.

  `classes` lists the class names in the order of the labels; () if unknown.
  """

  sampler: Sampler
  classes: tuple[str, ...] = ()

  def __repr__(self) -> str:
    shape = 'x'.join(map(str, self.sampler.shape))
    return (
      f'Pipeline({self.denoiser!r}, {self.denoiser.num_classes} classes, '
      f'latents {shape}, {self.sampling.solver} with '
      f'{len(self.sampler.grid) - 1} steps)'
    )

  @property
  def denoiser(self) -> Denoiser:
    """Network with its parameters on the devices."""
    return self.sampler.denoiser

  @property
  def sampling(self) -> SampleConfig:
    """Settings of the sampler."""
    return self.sampler.config

  def __call__(
    self,
    labels: Labels,
    guidance: str | Guidance = 'none',
    *,
    seed: int = 0,
    noise: np.ndarray | None = None,
    guide: 'Pipeline | None' = None,
    output: str = 'images',
    callback: Callable[[float, np.ndarray], None] | None = None,
    progress: Callable[[int], None] = lambda done: None,
    **sampling: Any,
  ) -> np.ndarray:
    """Samples images (n, H, W, C) uint8, or their latents.

    Args:
      labels: Class of each image (n,), by number or name, or text such as
        'bird,3'. A single number gives one image.
      guidance: Guidance as text, such as 'ig:1.5,cfg:1.2@0-0.7', or as an
        object.
      seed: Random seed of all noise. Image i depends on the seed and on i.
      noise: Standard normal noise (n, H, W, C) to start from, in the shape of
        the latents; None for noise from the seed.
      guide: Pipeline of the weaker network, for the guidance 'auto'.
      output: 'images', or 'latents' for float32 in the units of the network.
      callback: Function of the time and the states (b, H, W, C) of a batch,
        called before each step. The last rows can be padding. A new function
        compiles a new program.
      progress: Function of the number of finished images, called after each
        batch.
      **sampling: Fields of `SampleConfig` to change, such as steps=25.

    Raises:
      InputError: An argument is invalid.
    """
    with library_terms():
      check_value('seed', seed, Seed)
      check_choice('output', output, OUTPUTS)
      labels, sampler = self._checked(labels), self._sampler(sampling)
      method = self._method(guidance, guide)
      start = None
      if noise is not None:
        start = check_states('noise', noise, (len(labels), *sampler.shape))
        start = start * _start_std(sampler)
      record = None
      if callback is not None:
        if sampler.solver.adaptive:
          raise InputError(
            f'solver {sampler.config.solver} chooses its own steps, and calls '
            'no callback; choose another solver.'
          )
        record = Observer(callback, ordered=sampler.mesh.size == 1)
      images = self._padded(sampler, len(labels)).images(
        method, labels, seed, progress,
        start=start, record=record, decode=output == 'images',
      ).images  # fmt: skip
      jax.effects_barrier()  # all callbacks have returned
      return images

  def noise(self, count: int, *, seed: int = 0) -> np.ndarray:
    """Returns the noise of images 0 to `count` - 1, (count, H, W, C) float32.

    `pipeline(labels, seed=s)` starts from `noise(len(labels), seed=s)`.
    """
    check_value('count', count, Annotated[int, Range(1, 10**6)])
    check_value('seed', seed, Seed)
    keys = image_keys(seed, jnp.arange(count))
    shape = self.sampler.shape
    normal = lambda key: jax.random.normal(key, shape, jnp.float32)  # noqa: E731
    return np.asarray(jax.vmap(normal)(keys))

  def invert(
    self,
    images: np.ndarray,
    labels: Labels,
    guidance: str | Guidance = 'none',
    *,
    solver: str = 'heun',
    steps: int = 100,
    **sampling: Any,
  ) -> np.ndarray:
    """Returns the noise from which the sampler reaches images, float32.

    The ODE is integrated from the data to the noise. With the same labels,
    guidance, solver and steps, `pipeline(labels, guidance, noise=...)` returns
    nearly the same images; more steps bring them closer.

    Args:
      images: Images (n, H, W, C) uint8 of a network without autoencoder, or
        latents as in `output='latents'`.
      labels: Class of each image, as in a call.
      guidance: Guidance as text or as an object, without random choices.
      solver: Solver without noise: euler, heun, midpoint or rk4.
      steps: Number of steps.
      **sampling: Other fields of `SampleConfig` to change.

    Raises:
      InputError: An argument is invalid.
    """
    with library_terms():
      check_choice('solver', solver, INVERTIBLE)
      sampler = self._sampler({**sampling, 'solver': solver, 'steps': steps})
      labels = self._checked(labels)
      method = self._method(guidance, None)
      if isinstance(sampler.path, VariancePreserving):
        raise InputError(
          f'path {type(sampler.path).__name__} has an infinite velocity at the '
          'data; only networks of other paths can be inverted.'
        )
      if method.stepwise:
        raise InputError(
          'guidance with random choices, memory or zero steps cannot be '
          'inverted; choose a method such as ig, cfg or slg.'
        )
      images = np.asarray(images)
      if images.dtype == np.uint8:
        if sampler.decoder is not None:
          raise InputError(
            'images are uint8, but the network samples latents; give latents, '
            "as output='latents' returns them."
          )
        images = np.asarray(from_pixels(jnp.asarray(images)))
      start = check_states('images', images, (len(labels), *sampler.shape))
      sampler = dataclasses.replace(
        self._padded(sampler, len(labels)), inverted=True
      )
      noise = sampler.images(method, labels, 0, start=start, decode=False)
      forward = dataclasses.replace(sampler, inverted=False)
      return noise.images / _start_std(forward)

  def interpolate(
    self,
    labels: Labels,
    guidance: str | Guidance = 'none',
    *,
    seeds: tuple[int, int] = (0, 0),
    count: int = 8,
    **sampling: Any,
  ) -> np.ndarray:
    """Samples `count` images between two seeds, two classes, or both.

    Args:
      labels: Class of the first and of the last image; one class for both.
      guidance: Guidance as text or as an object.
      seeds: Seed of the first and of the last image's noise.
      count: Number of images.
      **sampling: Fields of `SampleConfig` to change.

    Returns:
      Images (count, H, W, C) uint8.

    Raises:
      InputError: An argument is invalid.
    """
    check_value('count', count, Annotated[int, Range(2, 10_000)])
    with library_terms():
      solver = self._sampler(sampling).solver
    if not isinstance(seeds, tuple | list) or len(seeds) != 2:
      raise InputError(f'seeds are {seeds!r}, expected two, such as (0, 1).')
    ends = self._checked(labels)
    if len(ends) > 2:
      raise InputError(f'labels are {labels!r}, expected one class or two.')
    if solver.stochastic:
      raise InputError(
        'the solver adds noise at each step, so images between two seeds do '
        "not change smoothly; choose solver='heun' or another ODE solver."
      )
    first, last = (self.noise(1, seed=seed)[0] for seed in seeds)
    noise = between(first, last, count)
    if ends[0] == ends[-1]:
      return self([int(ends[0])] * count, guidance, noise=noise, **sampling)
    method = self._method(guidance, None)
    if method.wants_guide or 'icg' in method.methods:
      raise InputError(
        'guidance auto and icg do not work between two classes; choose another.'
      )
    blend = Blend(self.denoiser, jnp.int32(ends[0]), jnp.int32(ends[1]), count)
    frames = dataclasses.replace(
      self, sampler=dataclasses.replace(self.sampler, denoiser=blend)
    )
    return frames(range(count), guidance, noise=noise, **sampling)

  def film(
    self,
    labels: Labels,
    guidance: str | Guidance,
    *,
    seed: int = 0,
    frames: int = 10,
    guide: 'Pipeline | None' = None,
    **sampling: Any,
  ) -> Film:
    """Records the effect of guidance; see `sample.trajectory`."""
    with library_terms():
      check_value('seed', seed, Seed)
      check_value('frames', frames, Annotated[int, Range(1, 10_000)])
      return record_trajectory(
        self._sampler(sampling),
        self._method(guidance, guide),
        self._checked(labels),
        seed,
        frames,
      )

  def nfe(
    self,
    guidance: str | Guidance = 'none',
    *,
    seed: int = 0,
    guide: 'Pipeline | None' = None,
    **sampling: Any,
  ) -> float | None:
    """Returns network evaluations per image; None for an adaptive solver."""
    with library_terms():
      check_value('seed', seed, Seed)
      method, sampler = self._method(guidance, guide), self._sampler(sampling)
      sampler.check(method)
      return sampler.nfe(method, seed)

  def _padded(self, sampler: Sampler, count: int) -> Sampler:
    """Returns a sampler whose batch size fits `count` images.

    Batch sizes are powers of two per device, up to that of the sampler, so
    that few sizes are compiled.
    """
    parts = batch_parts(sampler.mesh)
    size = parts * 2 ** (-(-count // parts) - 1).bit_length()
    config = dataclasses.replace(
      sampler.config, batch_size=min(sampler.config.batch_size, size)
    )
    return dataclasses.replace(sampler, config=config)

  def _sampler(self, changes: Mapping[str, Any]) -> Sampler:
    config = with_changes(self.sampling, changes)
    return dataclasses.replace(self.sampler, config=config)

  def _method(
    self, guidance: str | Guidance, guide: 'Pipeline | None'
  ) -> Guidance:
    if isinstance(guidance, str):
      guidance = parse(guidance)
    elif not isinstance(guidance, Guidance):
      raise InputError(
        f'guidance is {guidance!r}, expected text such as ig:1.5, or none.'
      )
    if guide is None:
      return guidance
    if not guidance.wants_guide:
      raise InputError('a guide is for guidance auto, which is not in use.')
    other, pair = ((p.sampler.path, p.sampler.shape) for p in (guide, self))
    if other != pair:
      raise InputError(
        f'the guide has path and latents {other}, the network {pair}; they '
        'must be trained for the same task.'
      )
    return with_guide(guidance, guide.denoiser)

  def _checked(self, labels: Labels) -> np.ndarray:
    return check_labels(labels, self.denoiser.num_classes, self.classes)


def _start_std(sampler: Sampler) -> float:
  """Returns the standard deviation of the state at the first time."""
  t = jnp.asarray(sampler.grid[0])
  return float(start_std(sampler.solver, sampler.path, t))
