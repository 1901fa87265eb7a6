"""Generation of many images: labels, batches over the devices and decoding.

The plan of labels sets the label of image i:

  balanced   i mod num_classes
  random     sampled with the key of image i
  3 or 3,5   the listed classes in turn, by number or name (`sample.labels`)

The label and noise of image i do not depend on the batch size, the devices or
the number of images. These three affect an image only through rounding errors.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from core.errors import InputError
from core.overlap import one_ahead
from core.ranges import BatchSize, Choice, Count, check_fields, check_value
from dit import latents
from dit.autoencoder import Autoencoder
from dit.path import Linear, Path, VariancePreserving
from dit.sharding import batch_sharding, check_batch, replicated
from dit.types import Denoiser
from guidance import Guidance
from guidance.parse import describe
from sample import nonfinite, sampler
from sample.adaptive import Dopri5
from sample.ddpm import discrete_grid
from sample.grid import LAST_STEP_SIZES, SHIFTS, STEPS, make_grid
from sample.labels import find_classes
from sample.registry import check_solver, make_solver
from sample.solvers import Euler, Solver

STATE_DTYPES = ('float32', 'float64')
PLANS = ('balanced', 'random')  # plans that are not a list of classes


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """Settings of the sampler; configs/base.py explains each field."""

  solver: str = 'euler_maruyama'
  steps: Annotated[int, STEPS] = 250
  spacing: str = 'uniform'
  shift: Annotated[float, SHIFTS] = 1.0
  last_step_size: Annotated[float, LAST_STEP_SIZES] = 0.04
  respacing: str = ''
  scales_at: Annotated[str, Choice(sampler.SCALES_AT)] = 'step'
  state_dtype: Annotated[str, Choice(STATE_DTYPES)] = 'float32'
  truncate: bool = False
  batch_size: BatchSize = 64

  def __post_init__(self) -> None:
    check_fields('sample', self)
    check_solver(self.solver)
    self.grid(Linear())

  def grid(self, path: Path) -> np.ndarray:
    """Returns the grid of times, (steps + 1,)."""
    if self.respacing:
      return discrete_grid(self.respacing)
    return make_grid(
      self.steps,
      shift=self.shift,
      last_step_size=self.last_step_size,
      spacing=self.spacing,
      path=path,
    )

  def make_solver(self, path: Path) -> Solver | Dopri5:
    """Returns the solver for a path."""
    return make_solver(self.solver, path)

  def precision(self) -> contextlib.AbstractContextManager:
    """Returns a context that enables `state_dtype` in JAX."""
    if self.state_dtype == 'float64':
      return jax.enable_x64(True)
    return contextlib.nullcontext()


def plan_labels(
  plan: str,
  num: int,
  num_classes: int,
  seed: int,
  names: Sequence[str] = (),
) -> np.ndarray:
  """Returns the labels of images 0 to num - 1, (num,) int32.

  Args:
    plan: Plan of labels, such as 'balanced' or '3,5'.
    num: Number of images.
    num_classes: Number of classes.
    seed: Random seed for the plan 'random'.
    names: Names of the classes; () if unknown.

  Raises:
    InputError: The plan or a class is unknown.
  """
  check_value('number of labels', num, Count)
  index = np.arange(num)
  if plan == 'balanced':
    return (index % num_classes).astype(np.int32)
  if plan == 'random':
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.fold_in(jax.random.key(seed), sampler.LABELS), index
    )
    draw = jax.vmap(
      lambda key: jax.random.randint(key, (), 0, num_classes, jnp.int32)
    )
    return np.asarray(draw(keys), np.int32)
  plans = ''.join(f'{word}, ' for word in PLANS)
  classes = find_classes(plan, num_classes, names, plans)
  return np.asarray(classes, np.int32)[index % len(classes)]


@dataclasses.dataclass(frozen=True)
class Batch:
  """Finished images (n, H, W, C) uint8; `index` (n,) int has their indices.

  Attributes:
    nfe: Network evaluations per image, in units of one conditional pass.
    finite: Whether all values of each image were finite, (n,) bool.
  """

  index: np.ndarray
  images: np.ndarray
  nfe: float
  finite: np.ndarray


class Generated(NamedTuple):
  """Images (n, H, W, C) uint8, mean NFE, and the number of nonfinite images."""

  images: np.ndarray
  nfe: float
  nonfinite: int

  def __repr__(self) -> str:
    return f'Generated({len(self.images)} images, NFE {self.nfe:.4g})'


def to_images(
  autoencoder: Autoencoder | None, x: jax.Array, *, truncate: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Returns uint8 images of latents (B, H, W, C), and whether each is finite.

  Args:
    autoencoder: Decoder of the latents; None if latents are images.
    x: Latents.
    truncate: Whether pixels are truncated instead of rounded.
  """
  x = x.astype(jnp.float32)
  if autoencoder is not None:
    x = autoencoder.decode(autoencoder.denormalize(x))
  pixels = latents.to_pixels(x, truncate=truncate)
  return pixels, jnp.isfinite(x).all((1, 2, 3))


@dataclasses.dataclass(frozen=True, repr=False)
class Sampler:
  """A network and its decoder on `mesh`, with settings for sampling.

  `shape` is the shape (H, W, C) of a latent. `decoder` is None if latents are
  images. If `inverted`, the sampler goes from the data to the noise.
  """

  denoiser: Denoiser
  config: SampleConfig
  path: Path
  shape: tuple[int, int, int]
  mesh: Mesh
  decoder: Autoencoder | None = None
  inverted: bool = False

  def __repr__(self) -> str:
    return (
      f'Sampler({self.denoiser!r}, {self.config.solver} with '
      f'{len(self.grid) - 1} steps)'
    )

  @functools.cached_property
  def solver(self) -> Solver | Dopri5:
    """Solver that `config` names."""
    return self.config.make_solver(self.path)

  @functools.cached_property
  def grid(self) -> np.ndarray:
    """Grid of times, (steps + 1,)."""
    grid = self.config.grid(self.path)
    return grid[::-1].copy() if self.inverted else grid

  @functools.cached_property
  def integration(self) -> sampler.Integration:
    """Settings that the compiled program depends on."""
    return sampler.Integration(
      self.solver,
      self.shape,
      self.path,
      self.config.scales_at,
      self.config.state_dtype,
    )

  def check(self, guidance: Guidance) -> None:
    """Raises InputError if network, solver and guidance are incompatible."""
    guidance.check(self.denoiser, self.shape)
    name, solver = self.config.solver, self.solver
    if solver.learned_variance and not self.denoiser.learned_variance:
      raise InputError(
        f'sample.solver {name} needs a network that learned its '
        'variance (DiT); choose ddpm:variance=small.'
      )
    is_linear = isinstance(solver, Euler) and isinstance(self.path, Linear)
    if guidance.needs_ddim and not (solver.ddim or is_linear):
      raise InputError(
        f'guidance cfg++ changes a step of DDIM, not of {name}; choose '
        'sample.solver ddim (or euler, on the linear path).'
      )
    steps = len(self.grid) - 1
    if guidance.zero_steps >= steps:
      raise InputError(
        f'guidance leaves out the first {guidance.zero_steps} of {steps} '
        'solver steps; lower zero_steps.'
      )
    if solver.adaptive and isinstance(self.path, VariancePreserving):
      raise InputError(
        f'sample.solver {name} needs the velocity at t = 0, where it '
        'is infinite on this path; choose another solver.'
      )
    if guidance.stepwise and solver.adaptive:
      raise InputError(
        f'sample.solver {name} chooses its own steps, which this guidance '
        'cannot follow; choose another solver.'
      )
    if self.config.state_dtype == 'float64' and jax.default_backend() == 'tpu':
      raise InputError(
        'sample.state_dtype float64 does not run on TPUs; choose float32.'
      )
    check_batch(self.mesh, self.config.batch_size, 'sample.batch_size')

  def nfe(self, guidance: Guidance, seed: int) -> float | None:
    """Returns network evaluations per image; None for an adaptive solver."""
    if isinstance(self.solver, Dopri5):
      return None
    return sampler.nfe(
      guidance, self.denoiser, self.grid, seed, self.integration
    )

  def latents(
    self,
    guidance: Guidance,
    labels: np.ndarray,
    index: np.ndarray,
    seed: int,
    *,
    record: Callable[[sampler.State], Any] | None = None,
    start: np.ndarray | None = None,
  ) -> tuple[jax.Array, Any]:
    """Starts sampling the latents of one batch, sharded over the devices.

    The caller must set the mesh and enter `config.precision()`.
    """
    arrays = (labels.astype(np.int32), index.astype(np.int32), start)
    label, numbers, state = jax.device_put(arrays, batch_sharding(self.mesh))
    return sampler.sample(
      self.denoiser,
      guidance,
      label,
      numbers,
      self.grid,
      jnp.uint32(seed),
      self.integration,
      record=record,
      start=state,
    )

  @property
  def decode(self) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Compiled `to_images`, whose results every process can read."""
    decode = _compiled_decoder(self.mesh, self.config.truncate)
    return functools.partial(decode, self.decoder)

  def batches(
    self,
    guidance: Guidance,
    labels: np.ndarray,
    seed: int,
    index: np.ndarray | None = None,
    *,
    start: np.ndarray | None = None,
    record: Callable[[sampler.State], Any] | None = None,
    decode: bool = True,
  ) -> Iterator[Batch]:
    """Yields batches of images while the devices compute the next batch.

    Args:
      guidance: Guidance method.
      labels: Labels (n,) of images 0 to n - 1.
      seed: Random seed of all noise.
      index: Indices of the images to sample, in order; None for all.
      start: States (n, H, W, C) at the first time; None for noise.
      record: Function called before each step, as in `sampler.sample`; its
        results are dropped.
      decode: Whether to return images; False for latents, (n, H, W, C) float32.
    """
    self.check(guidance)
    index = np.arange(len(labels)) if index is None else index
    config = self.config
    # Scalars become floats, so that all scales share one compiled program. The
    # arrays of a guide remain arrays.
    with np.errstate(over='ignore'):  # nonfinite images are counted later
      guidance = jax.tree.map(
        lambda leaf: (
          leaf if np.ndim(leaf) else float(np.asarray(leaf, config.state_dtype))
        ),
        guidance,
      )
    cost = self.nfe(guidance, seed)
    finished = self.decode if decode else _compiled_identity(self.mesh)

    def begin(number):
      # All batches have the same size, so they share one program. `finish`
      # drops the padding images of the last batch.
      padding = config.batch_size - len(number)
      rows = np.pad(number, (0, padding), mode='edge')
      with jax.set_mesh(self.mesh), config.precision():
        x, passes = self.latents(
          guidance, labels[rows], rows, seed,
          record=record, start=None if start is None else start[rows],
        )  # fmt: skip
        return number, finished(x), passes

    def finish(number, decoded, passes):
      images, finite = (x[: len(number)] for x in jax.device_get(decoded))
      total = float(jax.device_get(passes)) if cost is None else cost
      return Batch(number, images, total, finite)

    starts = range(0, len(index), config.batch_size)
    parts = (index[first : first + config.batch_size] for first in starts)
    for item in one_ahead(map(begin, parts)):
      yield finish(*item)

  def images(
    self,
    guidance: Guidance,
    labels: np.ndarray,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    **options: Any,
  ) -> Generated:
    """Returns all images of `batches`; warns about nonfinite images.

    Args:
      guidance: Guidance method.
      labels: Labels (n,) of images 0 to n - 1.
      seed: Random seed of all noise.
      progress: Callback after each batch, for the number of finished images.
      **options: Options of `batches`.
    """
    images, evaluations, done, failures = [], 0.0, 0, 0
    for batch in self.batches(guidance, labels, seed, **options):
      images.append(batch.images)
      done += len(batch.index)
      evaluations += len(batch.index) * batch.nfe
      failures += int((~batch.finite).sum())
      progress(done)
    if failures:
      nonfinite.warn(failures, done, describe(guidance))
    return Generated(np.concatenate(images), evaluations / done, failures)


# Caches of compiled functions; equal samplers share them.
@functools.cache
def _compiled_decoder(mesh: Mesh, truncate: bool) -> Callable[..., Any]:
  """Returns `to_images` as a compiled function of decoder and latents."""
  return jax.jit(
    functools.partial(to_images, truncate=truncate),
    out_shardings=replicated(mesh),
  )


@functools.cache
def _compiled_identity(mesh: Mesh) -> Callable[..., Any]:
  """Returns a function like `to_images` that keeps the latents, as float32."""
  return jax.jit(
    lambda x: (x.astype(jnp.float32), jnp.isfinite(x).all((1, 2, 3))),
    out_shardings=replicated(mesh),
  )
