"""A small classifier of the real images, trained in seconds.

For data without a published feature extractor: the activations before its last
layer are features for distances, its predictions give class accuracy. Numbers
made with it are labelled as such, and are never called FID.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dit import latents
from dit.layers import layer_norm

FEATURES = 64


class ConvNet(nnx.Module):
  """Convolutions with stride 2, a normalised hidden layer, logits."""

  def __init__(
    self, shape: tuple[int, int, int], num_classes: int, *, rngs: nnx.Rngs
  ) -> None:
    """Creates the layers for images of (H, W, C)."""
    size, _, channels = shape
    conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
    self.first = conv(channels, 32)
    self.down = conv(32, 64, strides=2)
    self.deep = conv(64, 64, strides=2)
    self.hidden = nnx.Linear(64 * (-(-size // 4)) ** 2, FEATURES, rngs=rngs)
    self.logits = nnx.Linear(FEATURES, num_classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(B, H, W, C) in [-1, 1] -> features (B, FEATURES) and logits.

    The features are normalised, hence bounded: no single odd image can carry
    a distance between sets of them.
    """
    for layer in (self.first, self.down, self.deep):
      x = jax.nn.gelu(layer(x))
    features = layer_norm(self.hidden(x.reshape(len(x), -1)))
    return features, self.logits(features)


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A trained network."""

  graph: nnx.GraphDef
  params: Any

  def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, H, W, C) uint8 -> features (n, FEATURES), predictions (n,)."""
    features, logits = _apply(self.graph, self.params, images)
    return np.asarray(features), np.asarray(logits.argmax(-1))


@functools.partial(jax.jit, static_argnums=0)
def _apply(graph, params, images):
  return nnx.merge(graph, params)(latents.from_pixels(images))


def train_classifier(
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  steps: int = 300,
  batch_size: int = 128,
  seed: int = 0,
) -> Classifier:
  """Trains on real images, shifted by up to a pixel and made noisy.

  Without the augmentation the features know the training images by heart, and
  other real images look as far away as drawn ones.

  Args:
    images: (n, H, W, C) uint8.
    labels: (n,) int.
    num_classes: of the labels.
    steps: of Adam.
    batch_size: drawn with replacement.
    seed: of initialisation, batches and augmentation.

  Returns:
    The classifier.
  """
  network = ConvNet(images.shape[1:], num_classes, rngs=nnx.Rngs(seed))
  graph, state = nnx.split(network)
  params = nnx.to_pure_dict(state)
  optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
  root = jax.random.key(seed)
  images, labels = jnp.asarray(images), jnp.asarray(labels)

  @jax.jit
  def step(params, opt_state, n):
    keys = jax.random.split(jax.random.fold_in(root, n), 3)
    index = jax.random.randint(keys[0], (batch_size,), 0, len(images))
    x = _augment(latents.from_pixels(images[index]), keys[1], keys[2])

    def loss(params):
      _, logits = nnx.merge(graph, params)(x)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels[index]
      ).mean()

    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state

  opt_state = optimizer.init(params)
  # Not a scan: XLA's CPU convolutions run on one thread inside a loop.
  for n in range(steps):
    params, opt_state = step(params, opt_state, n)
  return Classifier(graph, params)


def _augment(x: jax.Array, shift_key: jax.Array, noise_key: jax.Array):
  """Shifts each image by -1, 0 or 1 pixel a side and adds noise."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
  starts = jax.random.randint(shift_key, (len(x), 2), 0, 3)

  def crop(image, start):
    return jax.lax.dynamic_slice(image, (*start, 0), x.shape[1:])

  x = jax.vmap(crop)(padded, starts)
  return x + 0.2 * jax.random.normal(noise_key, x.shape)
