"""Images between two noises and between two classes.

Frame k of n has the weight w = k / (n - 1) and starts from

  noise = (sin((1 - w) a) noise_0 + sin(w a) noise_1) / sin(a)

where a is the angle between the two noises, so that the norm stays that of
noise. Between two classes, the velocity of a frame is

  v = (1 - w) v(x, t, class_0) + w v(x, t, class_1)

which doubles the cost. Both rules are common practice, not from a paper.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dit.types import (
  ClassConditional,
  Condition,
  Denoiser,
  DenoiserOutput,
  SubNetworks,
)


def between(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
  """Interpolates between two noises on the sphere.

  Args:
    first: Noise (H, W, C).
    last: Another noise (H, W, C); equal noises give equal frames.
    count: Number of frames n, at least 2.

  Returns:
    Frames (n, H, W, C) float32; the first and the last are the two noises.
  """
  first, last = first.astype(np.float64), last.astype(np.float64)
  norms = np.linalg.norm(first) * np.linalg.norm(last)
  angle = np.arccos(np.clip((first * last).sum() / norms, -1, 1))
  weights = np.linspace(0, 1, count)[:, None, None, None]
  if np.sin(angle) < 1e-6:  # the noises are equal
    frames = (1 - weights) * first + weights * last
  else:
    parts = np.sin((1 - weights) * angle), np.sin(weights * angle)
    frames = (parts[0] * first + parts[1] * last) / np.sin(angle)
  return frames.astype(np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Blend(ClassConditional):
  """A denoiser whose classes are frames between two classes of a network.

  Attributes:
    denoiser: Network.
    first: Class of the first frame.
    last: Class of the last frame.
    count: Number of frames; frame `count` is the null label.
  """

  denoiser: Denoiser
  first: jax.Array
  last: jax.Array
  count: int = dataclasses.field(metadata={'static': True})

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__') or name == 'denoiser':
      raise AttributeError(name)
    return getattr(self.denoiser, name)

  @property
  def num_classes(self) -> int:
    """Number of frames, which is also the index of the null label."""
    return self.count

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    /,
    sub: SubNetworks | None = None,
  ) -> DenoiserOutput:
    """Predicts the mean of the predictions for both classes."""
    null = self.denoiser.null_condition(condition)
    labels = [
      jnp.where(condition == self.count, null, label)
      for label in (self.first, self.last)
    ]
    weight = jnp.where(
      condition == self.count, 0, condition / max(self.count - 1, 1)
    )
    outputs = [self.denoiser(x, t, label, sub) for label in labels]

    def mix(first, last):
      w = weight[:: len(weight) // len(first), None, None, None]
      return ((1 - w) * first + w * last).astype(first.dtype)

    return jax.tree.map(mix, *outputs)
