import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dit import latents, model
from dit.types import ClassConditional, DenoiserOutput


def perturbed(config):
  params = jax.jit(functools.partial(model.init, config))(jax.random.key(0))
  rng = np.random.default_rng(1)

  def perturb(leaf):  # NumPy, unlike JAX, compiles nothing per shape.
    noise = rng.normal(size=leaf.shape).astype(np.float32)
    return jnp.asarray(np.asarray(leaf) + 0.1 * noise)

  return model.bind(config, jax.tree.map(perturb, params))


def assert_close(ours, expected, **tolerances):
  """Applies `numpy.testing.assert_allclose` to each pair of pytree leaves."""
  compare = functools.partial(np.testing.assert_allclose, **tolerances)
  jax.tree.map(compare, ours, expected)


def assert_same(ours, expected):
  jax.tree.map(np.testing.assert_array_equal, ours, expected)


def static(default):
  return dataclasses.field(default=default, metadata={'static': True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Toy(ClassConditional):
  """A simple network of sine blocks, with a tap after the middle block.

  Attributes:
    seed: Seed of the weights.
    labels: Whether the output depends on the label.
    kept: Flag of each block, true if the block runs; None runs all blocks.
  """

  seed: int = static(0)
  depth: int = static(4)
  labels: bool = static(True)
  kept: tuple[bool, ...] | None = static(None)
  num_taps: int = static(1)
  num_classes: int = static(10)
  null_label: bool = static(True)
  learned_variance: bool = static(False)
  multiply_adds: int = static(100)

  def __call__(self, x, t, label, sub=None):
    kept = (True,) * self.depth if self.kept is None else self.kept
    out = self._run(x, t, label, jnp.asarray(kept))
    if sub is None:
      return out
    parts = [array[:: sub.every] for array in (x, t, label)]
    subs = tuple(self._run(*parts, keep) for keep in sub.keep)
    return dataclasses.replace(out, sub=subs)

  def _run(self, x, t, label, keep):
    t, label = (array[:, None, None, None] for array in (t, label))

    def block(h, own):
      keep, matrix, phase = own
      angle = h @ matrix + t * phase[0] + self.labels * (1 + label) * phase[1]
      h = jnp.where(keep, h + jnp.sin(angle), h)
      return h, h

    rng, channels = np.random.default_rng(self.seed), x.shape[-1]
    matrix = rng.normal(size=(self.depth, channels, channels))
    phase = rng.normal(size=(self.depth, 2, channels))
    own = (keep, matrix.astype(np.float32), phase.astype(np.float32))
    velocity, states = jax.lax.scan(block, x, own)
    taps = (0.7 * states[self.depth // 2 - 1],)[: self.num_taps]
    return DenoiserOutput(
      velocity, taps, x * x if self.learned_variance else None
    )


class Doubled:
  """An autoencoder that encodes x to mean 2x and standard deviation 0.5."""

  downsampling, latent_channels = 1, 3
  params: ClassVar = {}
  normalization = latents.Normalization((1.0,), (2.0,))

  def encode(self, x):
    return latents.Posterior(2 * x, 0 * x + 0.5)


jax.tree_util.register_static(Doubled)
