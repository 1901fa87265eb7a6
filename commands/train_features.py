"""The command `train-features`, which trains a feature extractor.

The extractor is a classifier of the user's images (`evaluate.classifier`). The
command reports the test accuracy.
"""

import argparse
import hashlib
import time
from typing import Annotated, Any

import jax
import numpy as np
from etils import epath

from core.errors import InputError
from core.processes import print_once, together, writing_target
from core.progress import image_progress
from core.ranges import Range, check_value
from dit.sharding import make_mesh
from dit.weights.folder import check_target
from evaluate.classifier import recipe, train_classifier
from evaluate.real_images import decoder_of, load_images
from input_pipeline.sources import DataConfig, open_source
from train.config_file import load_config, override
from train.experiment import Experiment, build

_MOST_BYTES = 2**33  # memory limit: 2.7 million images of 32 x 32 pixels


def run(args: argparse.Namespace) -> None:
  """Runs `train-features`."""
  config = override(load_config(args.config), args.overrides)
  report = train_features(
    build(config.to_dict()),
    args.target,
    steps=args.steps,
    autoencoder=args.autoencoder,
  )
  print_once(report)


def train_features(
  experiment: Experiment,
  folder: epath.PathLike,
  *,
  steps: int | None = None,
  autoencoder: str | None = None,
) -> str:
  """Trains and saves a classifier, and returns a one-line report.

  Every process of a job trains the same classifier. Only process 0 writes.
  Raises InputError if the data has no labeled images or the folder is not
  empty, and PrepareError if another process failed.

  Args:
    experiment: Settings of data, seed and number of classes.
    folder: Folder for the classifier, new or empty.
    steps: Number of training steps; None for the default for the image size.
    autoencoder: Decoder of latents in the syntax of `dit.autoencoder.files`;
      None for the decoder that the records name.
  """
  if steps is not None:
    check_value('--steps', steps, Annotated[int, Range(1, 10**9)])
  with together():
    if jax.process_index() == 0:
      check_target(folder)
  path = epath.Path(folder).expanduser().absolute()
  with writing_target(path, 'train-features'):
    data = experiment.data
    (images, labels), (tests, targets) = _splits(experiment, autoencoder)
    default, batch_size = recipe(images.shape[1:])
    steps = steps or default
    start = time.perf_counter()
    with image_progress(steps * batch_size, 0, 'train-features') as progress:
      classifier = train_classifier(
        images,
        labels,
        experiment.model.num_classes,
        steps=steps,
        batch_size=batch_size,
        seed=experiment.seed,
        flip=data.flip,
        progress=lambda step, loss: progress(step * batch_size),
      )
    _, predictions = classifier(tests)
    seconds = time.perf_counter() - start
    accuracy = float((predictions == targets).mean())
    metadata = {
      'data': data.name,
      'split': data.train_split,
      'images': len(images),
      'images_sha256': hashlib.sha256(images.data).hexdigest(),
      'steps': steps,
      'batch_size': batch_size,
      'seed': experiment.seed,
      'flip': data.flip,
      'held_out_split': data.test_split,
      'held_out_images': len(tests),
      'held_out_accuracy': accuracy,
    }
    with together():
      classifier.save(folder, metadata)
    return (
      f'{folder}: {accuracy:.1%} accuracy on {len(tests)} held-out images '
      f'of {data.name}, trained on {len(images)} in {seconds:.0f} s; features '
      'of a classifier, not FID.'
    )


def _splits(
  experiment: Experiment, autoencoder: str | None
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns images and labels of the training split and of the test split."""
  data, classes = experiment.data, experiment.model.num_classes
  mesh, pairs = make_mesh(experiment.mesh), []
  decoder = decoder_of(data, autoencoder, mesh)
  for split in (data.train_split, data.test_split):
    source = _open(data, split)
    images, labels = load_images(
      source, decoder, mesh, experiment.eval.batch_size, _MOST_BYTES
    )
    if not 0 <= labels.min() <= labels.max() < classes:
      raise InputError(
        f'labels of {data.name} are {labels.min()} to {labels.max()}, but '
        f'model.num_classes is {classes}; set it to {labels.max() + 1}.'
      )
    pairs.append((images, labels))
  shape, other = (images.shape[1:] for images, _ in pairs)
  if shape != other:
    raise InputError(
      f'images of {data.test_split} have shape {other}, but images of '
      f'{data.train_split} have shape {shape}; make them agree.'
    )
  return pairs


def _open(data: DataConfig, split: str) -> Any:
  """Returns the records of a split; raises InputError if it has no images."""
  source = open_source(data, split)
  if not len(source):
    raise InputError(f'data {data.name!r} is empty in its split {split!r}.')
  record = source[0]
  kinds = {'pixels', 'image', 'moments'}
  if 'label' not in record or not record.keys() & kinds:
    raise InputError(
      f'records of {data.name} hold {sorted(record)}; a class-labeled image '
      'set is needed.'
    )
  return source
