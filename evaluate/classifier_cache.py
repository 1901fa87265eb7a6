"""Classifiers of datasets, trained once and stored beside the data.

`data.dir`/classifiers/NAME-KEY has the classifier of the images, labels and
settings that KEY is a hash of. Any other image trains another classifier.
"""

import hashlib

import jax
import numpy as np
from absl import logging
from etils import epath

from core.errors import InputError, WriteError
from core.progress import image_progress
from evaluate import classifier
from evaluate.classifier import Classifier

_FOLDER = 'classifiers'


def trained_once(
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  data_dir: epath.PathLike,
  name: str,
  flip: bool = False,
) -> Classifier:
  """Loads the classifier of a training split, or trains and stores it.

  Args:
    images: Images (n, H, W, C) uint8.
    labels: Labels (n,) int.
    num_classes: Number of classes.
    data_dir: Folder of the datasets.
    name: Name of the dataset.
    flip: Whether training mirrors images.

  Returns:
    The classifier. A warning is logged if it cannot be stored.
  """
  shape = images.shape[1:]
  steps, batch_size = classifier.recipe(shape)
  settings = (
    classifier.FORMAT, images.shape, num_classes, flip, steps, batch_size,
  )  # fmt: skip
  digest = hashlib.sha256(repr((settings, classifier.plan(shape))).encode())
  for array in (images, labels.astype(np.int32)):
    digest.update(np.ascontiguousarray(array).data)
  title = f'{name.replace("/", "-")}-{digest.hexdigest()[:16]}'
  folder = epath.Path(data_dir).expanduser() / _FOLDER / title
  if (folder / 'config.json').exists():
    try:
      network, _ = classifier.load(folder)
    except InputError as error:
      logging.warning('The stored classifier is replaced: %s', error)
      folder.rmtree()
    else:
      logging.info('Using the classifier of %s from %s.', name, folder)
      return network
  logging.info('Training the classifier on %d images of %s.', len(images), name)
  with image_progress(steps * batch_size, 0, 'train classifier') as progress:
    network = classifier.train_classifier(
      images,
      labels,
      num_classes,
      steps=steps,
      batch_size=batch_size,
      flip=flip,
      progress=lambda step, _: progress(step * batch_size),
    )
    jax.block_until_ready(network.params)
  about = {'data': name, 'images': len(images), 'steps': steps}
  try:
    network.save(folder, about)
  except (InputError, WriteError) as error:
    logging.warning('The classifier is not stored: %s', error)
  return network
