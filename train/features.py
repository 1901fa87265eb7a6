"""The command `train-features`: a feature extractor of one's own images.

`sample.metrics.classifier`, trained on the training split and tried on the
test split, for data that no published extractor suits.
"""

import glob
import hashlib
import time
from typing import Annotated

import jax
import numpy as np
from absl import logging
from etils import epath

from dit.errors import InputError
from dit.ranges import Range, check_value
from dit.weights import check_target
from sample.metrics.classifier import recipe, train_classifier
from train.data.processes import together, writing
from train.data.source import DataConfig, image_of, open_source
from train.experiment import Experiment

_MOST_BYTES = 2**33  # of images in memory: 2.7 million of 32 x 32


def train_features(
  experiment: Experiment, folder: epath.PathLike, *, steps: int | None = None
) -> str:
  """Trains a classifier on data.train_split and keeps it as a folder.

  All processes of a job compute alike; the first one writes.

  Args:
    experiment: its section data, its seed and its number of classes.
    folder: for the classifier; must not exist, or be empty.
    steps: of training; None: by the size of the images.

  Returns:
    A report of one line.

  Raises:
    InputError: if the data is not labelled images, or the folder is taken.
    PrepareError: if another process failed.
  """
  data = experiment.data
  if steps is not None:
    check_value('--steps', steps, Annotated[int, Range(1, 10**9)])
  if data.autoencoder != 'pixels':
    raise InputError(
      f'data.autoencoder is {data.autoencoder}, but features need images: set '
      'data.autoencoder=pixels and data.name to a set of images.'
    )
  with together():
    if jax.process_index() == 0:
      check_target(folder)
  path = epath.Path(folder).expanduser().absolute()
  with writing(
    path.parent,
    path.name,
    'train-features',
    writes=(glob.escape(path.name),),
    instead='choose another --to',
  ):
    return _train_features(experiment, folder, steps)


def _train_features(
  experiment: Experiment, folder: epath.PathLike, steps: int | None
) -> str:
  """Trains the classifier and writes it; see `train_features`."""
  data, num_classes = experiment.data, experiment.model.num_classes
  images, labels = _read(data, data.train_split, num_classes)
  held_out, truth = _read(data, data.test_split, num_classes)
  if held_out.shape[1:] != images.shape[1:]:
    raise InputError(
      f'images of {data.test_split} have shape {held_out.shape[1:]}, those of '
      f'{data.train_split} {images.shape[1:]}; make them agree.'
    )
  usual_steps, batch_size = recipe(images.shape[1:])
  steps = steps or usual_steps
  every = max(steps // 10, 1)

  def progress(done: int, loss: jax.Array) -> None:
    if done % every == 0:
      logging.info('Step %d of %d, loss %.3f.', done, steps, loss)

  start = time.perf_counter()
  classifier = train_classifier(
    images,
    labels,
    num_classes,
    steps=steps,
    batch_size=batch_size,
    seed=experiment.seed,
    flip=data.flip,
    progress=progress,
  )
  _, predictions = classifier(held_out)
  seconds = time.perf_counter() - start
  accuracy = float((predictions == truth).mean())
  about = {
    'data': data.name,
    'split': data.train_split,
    'images': len(images),
    'images_sha256': hashlib.sha256(images.data).hexdigest(),
    'steps': steps,
    'batch_size': batch_size,
    'seed': experiment.seed,
    'flip': data.flip,
    'held_out_split': data.test_split,
    'held_out_images': len(held_out),
    'held_out_accuracy': accuracy,
  }
  with together():
    classifier.save(folder, about)
  return (
    f'{folder}: {accuracy:.1%} right on {len(held_out)} held-out images of '
    f'{data.name}, trained on {len(images)} in {seconds:.0f} s; features of a '
    'classifier, not FID.'
  )


def _read(
  data: DataConfig, split: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Images (n, H, W, C) uint8 and labels (n,) int32, as memory has room."""
  source = open_source(data, split)
  if not len(source):
    raise InputError(f'data {data.name!r} is empty in its split {split!r}.')
  record = source[0]
  if 'moments' in record:
    raise InputError(
      f'{data.name} holds latents, but features need images: set data.name to '
      'a set of images, made with data.autoencoder=pixels.'
    )
  if 'label' not in record or not record.keys() & {'pixels', 'image'}:
    raise InputError(
      f'records of {data.name} hold {sorted(record)}; a class-labelled image '
      'set is needed.'
    )
  first = image_of(record)
  most = max(_MOST_BYTES // first.nbytes, 1)
  # Drawn at random where there are more: files are often sorted by class.
  chosen = np.random.default_rng(0).permutation(len(source))[:most]
  images = np.empty((len(chosen), *first.shape), np.uint8)
  labels = np.empty(len(chosen), np.int32)
  for row, index in enumerate(sorted(chosen.tolist())):
    record = source[index]
    image, labels[row] = image_of(record), record['label']
    if image.shape != first.shape:
      raise InputError(
        f'images of {data.name} have shapes {first.shape} and {image.shape}; '
        'bring them to one size: python main.py prepare.'
      )
    images[row] = image
  if not 0 <= labels.min() <= labels.max() < num_classes:
    raise InputError(
      f'labels of {data.name} are {labels.min()} to {labels.max()}, but '
      f'model.num_classes is {num_classes}; set it to {labels.max() + 1}.'
    )
  return images, labels
