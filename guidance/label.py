"""Guidance methods whose weak prediction has another condition.

c is the conditional prediction, u the prediction for the null label, w the
scale, and g = c - u:

  CFG         c + (w - 1) g                                (arXiv 2207.12598)
  CFG++       CFG with w that depends on the DDIM step     (arXiv 2406.08070)
  CFG-Zero*   c + (w - 1) (c - s u),  s = <c, u> / |u|^2   (arXiv 2503.18886)
  APG         c + (w - 1) (g_orthogonal + eta g_parallel)  (arXiv 2410.02416)
  TCFG        c + (w - 1) (c - <u, v> v), v the first right singular vector of
              the rows c and u                             (arXiv 2503.18137)
  FDG         c + sum over bands of (w_band - 1) g_band    (arXiv 2506.19713)
  ICG         c + (w - 1) (c - u), u for a random condition (arXiv 2407.02687)

In CFG, FDG and ICG, the coefficients of c and u sum to 1, so velocities, x0 and
noise give equal results. CFG-Zero* is defined for velocities, APG for x0 and
TCFG for noise. Norms and products are per image, over all other axes.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range
from core.ranges import LARGE
from dit.types import Condition, Denoiser
from guidance.base import Contrast, LabelTerm, Memory, Step, dot
from guidance.scale import Scale, check_number, is_number, static

_TINY = 1e-30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassifierFree(LabelTerm):
  """Classifier-free guidance.

  Attributes:
    guided_channels: Number of leading channels to guide; 0 for all. Published
      results of DiT, SiT and LightningDiT guide 3 channels. Published results
      of Internal Guidance guide all channels.
  """

  name: ClassVar[str] = 'cfg'
  title: ClassVar[str] = 'Classifier-free guidance'
  scale: Scale
  guided_channels: int = static(0)

  def __post_init__(self) -> None:
    check_range('guidance guided_channels', self.guided_channels, 0, 2**31)

  def check_shape(self, shape: tuple[int, int, int]) -> None:
    """Raises InputError if latents have fewer channels than guidance needs."""
    if self.guided_channels > shape[-1]:
      raise InputError(
        f'guidance {self.name} guides {self.guided_channels} channels, but '
        f'latents have {shape[-1]}; lower guided_channels, or leave it out.'
      )

  def push(self, at: Contrast) -> tuple[jax.Array, Memory]:
    """Returns (w - 1) g for guided channels, and 0 for all other channels."""
    difference = at.difference
    if self.guided_channels:
      mask = jnp.arange(difference.shape[-1]) < self.guided_channels
      difference = jnp.where(mask, difference, 0)
    return (at.scale - 1) * difference, at.memory


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassifierFreePlusPlus(ClassifierFree):
  """CFG++: a DDIM step with the guided x0 and the unconditional noise.

  Primes denote values at t_next. With x0 = u + lambda (c - u), the DDIM step
  x' = alpha' x0 + sigma' noise_u equals a CFG step with the scale

    w = lambda alpha' sigma / (alpha' sigma - sigma' alpha)

  For a fixed lambda, w therefore increases with the number of steps. With 250
  steps, lambda from 0.02 to 0.05 corresponds to w from 1.5 to 3. Outside the
  interval, the method uses the conditional prediction.

  Attributes:
    scale: lambda in [0, 1]. Unlike w = 1, lambda = 1 does not disable guidance.
  """

  name: ClassVar[str] = 'cfg++'
  title: ClassVar[str] = 'CFG++'
  needs_ddim: ClassVar[bool] = True

  def __post_init__(self) -> None:
    super().__post_init__()
    check_number('guidance cfg++', self.scale.value, 0, 1)
    if self.scale.schedule != 'constant':
      raise InputError(
        'guidance cfg++ sets its own schedule: leave schedule out.'
      )

  def scale_at(self, step: Step) -> jax.Array:
    """Returns w, the scale of CFG for this DDIM step."""
    path, t, t_next = step.path, step.at, jnp.asarray(step.t_next)
    signal = path.alpha(t_next) * path.sigma(t)
    change = signal - path.sigma(t_next) * path.alpha(t)
    return self.scale.inside(t, self.scale.value * signal / change)

  @property
  def stepwise(self) -> bool:
    """True, since the scale depends on t_next."""
    return True


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassifierFreeZero(LabelTerm):
  """CFG-Zero*: an optimally rescaled null prediction, and zero-init.

  Zero-init sets the velocity of the first solver steps to 0. At t = 1, zero is
  more accurate than the prediction of an under-trained network. An interval
  that excludes t = 1 therefore needs zero_steps = 0.

  Attributes:
    zero_steps: Number of initial solver steps that leave x unchanged.
  """

  name: ClassVar[str] = 'cfg_zero'
  title: ClassVar[str] = 'CFG-Zero*'
  scale: Scale
  zero_steps: int = static(1)

  def __post_init__(self) -> None:
    check_range('guidance zero_steps', self.zero_steps, 0, 100_000)
    high = self.scale.high
    if self.zero_steps and is_number(high) and high < 1:
      raise InputError(
        f'guidance cfg_zero skips the first solver steps, at t = 1, but '
        f'its interval ends at {high:g}; end it at 1, or add '
        'zero_steps=0.'
      )

  def push(self, at: Contrast) -> tuple[jax.Array, Memory]:
    """Returns (w - 1) (c - s u)."""
    c, u = at.strong, at.weak
    s = dot(c, u) / (dot(u, u) + 1e-8)
    return (at.scale - 1) * (c - s * u), at.memory

  @property
  def stepwise(self) -> bool:
    """Returns whether initial steps leave x unchanged."""
    return self.zero_steps > 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdaptiveProjected(LabelTerm):
  """APG: the x0 difference, with momentum, a norm limit and a projection.

    g <- x0_c - x0_u + momentum g_before        this g is the next g_before
    g <- g min(1, norm / |g|)
    g <- g - (1 - eta) <g, x0_c> x0_c / |x0_c|^2

  A difference of velocities is -(w / sigma) times the difference of x0, with w
  as in `dit.path`, so the code applies the same rules to velocities.

  Attributes:
    eta: Fraction of g's component along x0_c that is kept, from 0 to 1.
    norm: Largest |g|; 0 for no limit. Suitable values grow with the square root
      of the number of latent elements.
    momentum: Momentum; 0 for none, -0.5 to -0.75 in the paper. A step's first
      evaluation updates g_before. A step without guidance resets it to 0.
  """

  name: ClassVar[str] = 'apg'
  title: ClassVar[str] = 'Adaptive projected guidance'
  scale: Scale
  eta: float = static(0.0)
  norm: float = static(0.0)
  momentum: float = static(0.0)

  def __post_init__(self) -> None:
    check_range('guidance eta', self.eta, 0, 1)
    check_range('guidance norm', self.norm, 0, LARGE)
    check_range('guidance momentum', self.momentum, -1, 1)

  def init(self, x: jax.Array) -> Memory:
    """Returns zeros as the first g_before, or () if the momentum is 0."""
    return jnp.zeros_like(x) if self.momentum else ()

  def push(self, at: Contrast) -> tuple[jax.Array, Memory]:
    """Returns (w - 1) g as a velocity, and the next g_before as an x0."""
    t, path, g, memory = at.t, at.path, at.difference, at.memory
    to_x0 = -path.sigma(t) / path.w(t)
    if self.momentum:
      # At t = 0, every prediction of x0 is x, so the momentum is dropped.
      from_x0 = jnp.where(to_x0 < 0, 1 / jnp.minimum(to_x0, -_TINY), 0)
      g = g + self.momentum * from_x0 * memory
      memory = to_x0 * g
    if self.norm:
      length = jnp.abs(to_x0) * jnp.sqrt(dot(g, g))
      g = g * jnp.minimum(1, self.norm / jnp.maximum(length, _TINY))
    x0 = path.x0_from_velocity(at.x, at.strong, t)
    projection = dot(g, x0) / jnp.maximum(dot(x0, x0), _TINY) * x0
    return (at.scale - 1) * (g - (1 - self.eta) * projection), memory

  @property
  def stepwise(self) -> bool:
    """Returns whether the momentum is not 0."""
    return self.momentum != 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tangential(LabelTerm):
  """TCFG: the noise prediction u, projected onto the first singular vector v.

  Let m be the mean of the noise predictions c and u, and d = c - u = a Delta,
  where Delta is the velocity difference and a = alpha / w, with w as in
  `dit.path`. In the usual case 4 m.m > d.d,

    v = p m + q d,   p = 4 m.m - d.d + root,   q = 2 m.d
    root^2 = (4 m.m - d.d)^2 + 16 (m.d)^2

  Otherwise, p = 8 m.d and q = root - 4 m.m + d.d. Since a is 0 at t = 1, the
  code computes the push (c - <u, v> v / |v|^2) / a without a division by a.
  """

  name: ClassVar[str] = 'tcfg'
  title: ClassVar[str] = 'Tangential damping of CFG'
  scale: Scale

  def push(self, at: Contrast) -> tuple[jax.Array, Memory]:
    """Returns (w - 1) (c - <u, v> v / |v|^2) / a."""
    t, path, delta = at.t, at.path, at.difference
    a = path.alpha(t) / path.w(t)
    c, u = (path.noise_from_velocity(at.x, v, t) for v in (at.strong, at.weak))
    m = (c + u) / 2
    d = a * delta
    md, b = dot(m, d), 4 * dot(m, m) - dot(d, d)
    root = jnp.sqrt(jnp.square(b) + 16 * jnp.square(md))
    p = jnp.where(b > 0, b + root, 8 * md)
    q = jnp.where(b > 0, 2 * md, root - b)
    v = p * m + q * d
    size = jnp.maximum(dot(v, v), _TINY)
    along_m = (q + p / 2) * dot(delta, v) / size
    along_delta = 1 / 2 - q * dot(u, v) / size
    return (at.scale - 1) * (along_m * m + along_delta * delta), at.memory


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FrequencyDecoupled(LabelTerm):
  """FDG: separate scales for the two bands of a Laplacian pyramid.

  Attributes:
    scale: Scale of the high frequencies.
    low: Scale of the low frequencies; interval and schedule are as in `scale`.
  """

  name: ClassVar[str] = 'fdg'
  title: ClassVar[str] = 'Frequency-decoupled guidance'
  scale: Scale
  low: float | jax.Array = 1.0

  def __post_init__(self) -> None:
    check_number('guidance fdg low', self.low, 0, float('inf'))

  def scale_at(self, step: Step) -> jax.Array:
    """Returns the scales of the high and the low frequencies, (2,)."""
    low = dataclasses.replace(self.scale, value=self.low)
    return jnp.stack([self.scale.at(step.at), low.at(step.at)])

  def check_shape(self, shape: tuple[int, int, int]) -> None:
    """Raises InputError if the sides of latents are odd or less than 6."""
    h, w, _ = shape
    if min(h, w) < 6 or h % 2 or w % 2:
      raise InputError(
        f'guidance fdg halves images, but latents are {h} x {w}; it needs even '
        'sides of at least 6.'
      )

  def push(self, at: Contrast) -> tuple[jax.Array, Memory]:
    """Returns the sum of (w_band - 1) g_band over the two bands."""
    (high_scale, low_scale), (low, high) = at.scale, bands(at.difference)
    return (high_scale - 1) * high + (low_scale - 1) * low, at.memory


def bands(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Splits x (B, H, W, C) into low and high frequencies, which add up to x.

  The low band is x, reduced to half resolution and enlarged again. Reduction is
  a 5 x 5 binomial blur, then 2 x 2 means. Enlargement is linear interpolation,
  then the 5 x 5 blur. Sides must be even and at least 6.
  """
  b, h, w, c = x.shape
  half = _blur(x).reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
  low = _blur(jax.image.resize(half, x.shape, 'linear'))
  return low, x - low


def _blur(x: jax.Array) -> jax.Array:
  for axis in (1, 2):
    size, pad = x.shape[axis], [(0, 0)] * 4
    pad[axis] = (2, 2)
    image = jnp.pad(x, pad, mode='reflect')
    parts = (
      weight / 16 * jax.lax.slice_in_dim(image, k, k + size, axis=axis)
      for k, weight in enumerate((1, 4, 6, 4, 1))
    )
    x = sum(parts, jnp.zeros((), x.dtype))
  return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IndependentCondition(LabelTerm):
  """ICG: a random condition per image and step replaces the null label."""

  name: ClassVar[str] = 'icg'
  title: ClassVar[str] = 'Independent condition guidance'
  weak_title: ClassVar[str] = 'the prediction for a random class'
  uses_null: ClassVar[bool] = False
  scale: Scale

  def draw(
    self, denoiser: Denoiser, condition: Condition, key: jax.Array,
    image_keys: jax.Array,
  ) -> Condition:  # fmt: skip
    """Returns a random condition for each image."""
    del key
    if condition is None:
      return None
    return denoiser.random_condition(condition, image_keys)

  def weak_condition(
    self, denoiser: Denoiser, condition: Condition, draw: Any
  ) -> Condition:
    """Returns the random conditions, with the data types of `condition`."""
    del denoiser
    return jax.tree.map(lambda c, d: d.astype(c.dtype), condition, draw)

  @property
  def stepwise(self) -> bool:
    """True, since conditions are sampled at every step."""
    return True

  def check(self, denoiser: Denoiser) -> None:
    """Does nothing, since no null label is needed."""
    del denoiser
