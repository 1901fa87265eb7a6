"""A small classifier of the real images, trained in seconds to minutes.

The classifier extracts features of images that no published extractor fits.
Distances use the activations before the last layer, and class accuracy uses the
predictions. Results name the classifier, and do not call its distances FID. A
classifier's folder has:

  config.json           shape, number of classes, training settings, SHA-256
  weights.safetensors   arrays, named by their paths, such as convs/0/kernel
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from safetensors.numpy import save as to_safetensors

from core.errors import InputError, reason
from core.files import parse_json, write_bytes, write_json
from dit import latents
from dit.layers import layer_norm
from dit.model import fingerprint
from dit.weights.files import local, read_safetensors
from dit.weights.finite import check_finite
from dit.weights.folder import appears, check_target

FORMAT = 1
FEATURES = 64  # number of features up to 8 x 8 pixels; above, twice as many
_SMALL = 8
_LR = 2e-3  # initial learning rate
_BATCH_VALUES = 2**23  # largest number of values in a batch for inference


def plan(shape: tuple[int, int, int]) -> tuple[tuple[int, int], ...]:
  """Returns (width, stride) of each convolution for images of (H, W, C).

  Large images are downsampled to a side of 4. The width doubles where the side
  halves, so that all resolutions have about the same cost. Gray images need
  fewer features, so their classifier is narrower and less deep.
  """
  side = max(shape[:2])
  if side <= _SMALL:
    return (32, 1), (64, 2), (64, 2)
  gray = shape[-1] == 1
  stages: list[tuple[int, int]] = []
  while side > 4:
    side = -(-side // 2)
    width = min(max((336 if gray else 1024) // side, 24 if gray else 32), 256)
    # One convolution at the first resolution suffices for edges.
    stages += [(width, 2)] if gray or not stages else [(width, 2), (width, 1)]
  return tuple(stages)


def features_of(shape: tuple[int, int, int]) -> int:
  """Returns the number of features for images of (H, W, C)."""
  return FEATURES * (2 if max(shape[:2]) > _SMALL else 1)


def recipe(shape: tuple[int, int, int]) -> tuple[int, int]:
  """Returns (training steps, batch size) for images of shape (H, W, C)."""
  if max(shape[:2]) <= _SMALL:
    return 300, 128
  return (5000, 64) if shape[-1] == 1 else (3000, 64)


class ConvNet(nnx.Module):
  """Convolutions, a normalized hidden layer and logits."""

  def __init__(
    self, shape: tuple[int, int, int], num_classes: int, *, rngs: nnx.Rngs
  ) -> None:
    *sides, width = shape
    self.deep = max(sides) > _SMALL
    self.convs: nnx.List[nnx.Conv] = nnx.List()
    for wider, stride in plan(shape):
      conv = nnx.Conv(width, wider, (3, 3), strides=stride, rngs=rngs)
      self.convs.append(conv)
      width, sides = wider, [-(-side // stride) for side in sides]
    features = features_of(shape)
    self.hidden = nnx.Linear(width * sides[0] * sides[1], features, rngs=rngs)
    self.logits = nnx.Linear(features, num_classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps images (B, H, W, C) in [-1, 1] to features (B, F) and logits.

    Normalized features are bounded, so that no outlier dominates a distance.
    """
    for conv in self.convs:
      h = conv(x)
      # The three convolutions for small images need no norm and no skips.
      h = jax.nn.gelu(_normalize(h) if self.deep else h)
      x = x + h if self.deep and x.shape == h.shape else h
    features = layer_norm(self.hidden(x.reshape(len(x), -1)))
    return features, self.logits(features)


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A trained network for images of `shape`, (H, W, C).

  `params` are nested dictionaries of arrays.
  """

  shape: tuple[int, int, int]
  num_classes: int
  params: Any

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the weights, which identifies them in results."""
    return fingerprint(self.params)

  def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, H, W, C) uint8 to features (n, F) float32 and classes (n,)."""
    if images.shape[1:] != self.shape:
      raise InputError(
        f'images have shape {images.shape[1:]}, but the classifier was trained '
        f'on {self.shape}; train one on images of this shape.'
      )
    graph, _ = _abstract(self.shape, self.num_classes)
    batch = max(_BATCH_VALUES // int(np.prod(self.shape)), 1)
    parts = [
      jax.device_get(_apply(graph, self.params, images[i : i + batch]))
      for i in range(0, len(images), batch)
    ]
    features, logits = map(np.concatenate, zip(*parts, strict=True))
    return features, logits.argmax(-1)

  def save(self, folder: epath.PathLike, about: dict[str, Any]) -> None:
    """Writes a folder atomically; only the first process of a job writes.

    `about` has JSON values that describe the images, training and accuracy.
    Raises InputError if the folder holds files or cannot be written, and
    WriteError if the disk is full.
    """
    if jax.process_index() != 0:
      return
    folder = check_target(folder)
    config = {
      'format': FORMAT,
      'shape': self.shape,
      'num_classes': self.num_classes,
      'features': self.params['logits']['kernel'].shape[0],
      'sha256': self.fingerprint,
      'about': about,
    }
    arrays = _flatten(jax.device_get(self.params))
    with appears(folder) as partial:
      partial.mkdir()
      write_bytes(partial / 'weights.safetensors', to_safetensors(arrays))
      write_json(partial / 'config.json', config)


def load(folder: epath.PathLike) -> tuple[Classifier, dict[str, Any]]:
  """Reads what `Classifier.save` wrote: a classifier and its `about`.

  Raises InputError if the folder is damaged or contains no classifier.
  """
  folder = local(folder)
  path = folder / 'config.json'
  try:
    config = parse_json(path.read_bytes())
    if config['format'] != FORMAT:
      raise ValueError(f'format {config["format"]}, expected {FORMAT}')
    shape, num_classes = tuple(config['shape']), config['num_classes']
    if len(shape) != 3 or not all(map(_is_size, (*shape, num_classes))):
      raise ValueError(f'shape {shape} and num_classes {num_classes}')
    record, sha256 = dict(config['about']), config['sha256']
  except OSError as error:
    raise InputError(
      f'{folder} holds no classifier: its config.json cannot be read '
      f'({error.strerror}); train one: python main.py train-features.'
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is damaged or describes no classifier ({reason(error)}); train '
      'one: python main.py train-features.'
    ) from error
  _, shapes = _abstract(shape, num_classes)
  path = folder / 'weights.safetensors'
  arrays = read_safetensors(path)
  expected = {name: leaf.shape for name, leaf in _flatten(shapes).items()}
  if {name: array.shape for name, array in arrays.items()} != expected:
    raise InputError(
      f'{path} does not hold the arrays of the classifier that config.json '
      'describes; train it again.'
    )
  params = jax.tree.map_with_path(lambda key, _: arrays[_name(key)], shapes)
  if fingerprint(params) != sha256:
    raise InputError(
      f'{path} is damaged: its SHA-256 differs from the one in config.json; '
      'train it again.'
    )
  check_finite(path, arrays, advice='train the classifier again')
  return Classifier(shape, num_classes, params), record


def train_classifier(
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  steps: int | None = None,
  batch_size: int | None = None,
  seed: int = 0,
  flip: bool = False,
  progress: Callable[[int, jax.Array], None] = lambda done, loss: None,
) -> Classifier:
  """Trains a classifier on real images with small random shifts and noise.

  Without augmentation, the network memorizes the training images. In feature
  space, unseen real images then seem as distant as generated images.

  Args:
    images: Images (n, H, W, C) uint8.
    labels: Labels (n,) int.
    num_classes: Number of classes.
    steps: Number of Adam steps, with a cosine decay of the learning rate to 0;
      None for the number from `recipe`.
    batch_size: Images per step, sampled with replacement; None for the number
      from `recipe`.
    seed: Random seed for initialization, batches and augmentation.
    flip: Whether to mirror each image with probability 1/2.
    progress: Function called after each step with the step count and the loss.
  """
  shape = images.shape[1:]
  usual_steps, usual_batch_size = recipe(shape)
  steps = usual_steps if steps is None else steps
  batch_size = usual_batch_size if batch_size is None else batch_size
  network = ConvNet(shape, num_classes, rngs=nnx.Rngs(seed))
  graph, state = nnx.split(network)
  params = nnx.to_pure_dict(state)
  optimizer = optax.adam(optax.cosine_decay_schedule(_LR, steps))
  root = jax.random.key(seed)
  data = jnp.asarray(images), jnp.asarray(labels)

  # As arguments, the images are not stored in the compiled program.
  @jax.jit
  def step(params, opt_state, images, labels, n):
    keys = jax.random.split(jax.random.fold_in(root, n), 3)
    index = jax.random.randint(keys[0], (batch_size,), 0, len(images))
    x = _augment(latents.from_pixels(images[index]), keys[1], keys[2], flip)

    def loss_of(params):
      _, logits = nnx.merge(graph, params)(x)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels[index]
      ).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  opt_state = optimizer.init(params)
  # The loop is in Python: in `lax.scan`, CPU convolutions use only one thread.
  for n in range(steps):
    params, opt_state, loss = step(params, opt_state, *data, n)
    progress(n + 1, loss)
  return Classifier(shape, num_classes, params)


def _augment(
  x: jax.Array, shift_key: jax.Array, noise_key: jax.Array, flip: bool
) -> jax.Array:
  """Shifts each image by up to a sixteenth of its side and adds noise.

  For 8 x 8 images, the largest shift is one pixel and the noise std is 0.2. The
  std is proportional to 1 / side, since larger images have finer detail.
  """
  side = max(x.shape[1:3])
  shift = max(side // 16, 1)
  pads = ((0, 0), (shift, shift), (shift, shift), (0, 0))
  canvas = jnp.pad(x, pads, constant_values=-1)
  starts = jax.random.randint(shift_key, (len(x), 2), 0, 2 * shift + 1)

  def crop(image, start):
    return jax.lax.dynamic_slice(image, (*start, 0), x.shape[1:])

  x = jax.vmap(crop)(canvas, starts)
  if flip:
    mirror = jax.random.bernoulli(
      jax.random.fold_in(shift_key, 0), shape=(len(x), 1, 1, 1)
    )
    x = jnp.where(mirror, x[:, :, ::-1], x)
  return x + 1.6 / side * jax.random.normal(noise_key, x.shape)


@functools.partial(jax.jit, static_argnums=0)
def _apply(graph, params, images):
  return nnx.merge(graph, params)(latents.from_pixels(images))


def _normalize(h: jax.Array) -> jax.Array:
  """Normalizes over all axes of each image, so that flat patches stay flat."""
  return layer_norm(h.reshape(len(h), -1)).reshape(h.shape)


def graph_of(shape: tuple[int, int, int], num_classes: int) -> nnx.GraphDef:
  """Returns a classifier's NNX graph, without its parameters."""
  return _abstract(shape, num_classes)[0]


@functools.cache
def _abstract(
  shape: tuple[int, int, int], num_classes: int
) -> tuple[nnx.GraphDef, Any]:
  """Returns the NNX graph of a classifier and the shapes of its parameters."""
  graph, state = nnx.split(
    nnx.eval_shape(lambda: ConvNet(shape, num_classes, rngs=nnx.Rngs(0)))
  )
  return graph, nnx.to_pure_dict(state)


def _is_size(value: Any) -> bool:
  return type(value) is int and 0 < value < 2**16


def _flatten(params: Any) -> dict[str, Any]:
  return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
