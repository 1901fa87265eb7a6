"""Feature extractors by name, and references by place.

inception:FILE       the FID Inception, of the published .pth or a
.safetensors of it; FILE may be hf:// or https://
classifier           trained on the training split, here and now
classifier:FOLDER    one that `main.py train-features` wrote
FILE.py:NAME         your function of images (B, H, W, C) float32 in [0, 255],
to features (B, F)
"""

import hashlib
import pathlib
from typing import Any

from absl import logging

from dit.published import fetch, read_tensors
from dit.types import InputError
from sample.metrics import classifier
from sample.metrics.extractor import (
  SHA256,
  URL,
  Extractor,
  classifier_extractor,
  inception_extractor,
  user_extractor,
)
from train.data.source import DataConfig, load_all, open_source
from train.settings import load_function

KINDS = 'inception:FILE, classifier, classifier:FOLDER, or FILE.py:NAME'


def open_extractor(
  spec: str, preprocessing: str, data: DataConfig, num_classes: int
) -> Extractor:
  """The extractor of a name.

  Args:
    spec: as above.
    preprocessing: of Inception, one of `resize.PRESETS`.
    data: whose training split a classifier is trained on.
    num_classes: of the data.

  Raises:
    InputError: for an unknown name, or missing or foreign files.
  """
  kind, _, rest = spec.partition(':')
  if kind == 'inception':
    return _inception(rest, preprocessing)
  if kind == 'classifier':
    if rest:
      network, about = classifier.load(rest)
      about = {**about, 'folder': rest}
    else:
      network, about = _trained(data, num_classes)
    return classifier_extractor(network, about)
  path = pathlib.Path(kind).expanduser()
  if path.suffix == '.py' and rest and path.is_file():
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return user_extractor(
      f'{path.stem}:{rest}',
      load_function(path, rest),
      {'file': str(path), 'sha256': digest},
    )
  raise InputError(f'extractor {spec!r} is not known; expected {KINDS}.')


def _inception(file: str, preprocessing: str) -> Extractor:
  if not file:
    raise InputError(
      f'Inception needs its weights: download {URL} and give '
      '--extractor=inception:FILE (or that address in place of FILE).'
    )
  try:
    path = fetch(file)
  except InputError as error:
    raise InputError(
      f'{error} The published weights are at {URL}; give '
      '--extractor=inception:FILE.'
    ) from error
  with path.open('rb') as opened:
    digest = hashlib.file_digest(opened, 'sha256').hexdigest()
  tensors, _ = read_tensors(path)
  if digest != SHA256:
    logging.warning(
      '%s is not the published file (SHA-256 %s..., expected %s...): its '
      'distances are not called FID.',
      file, digest[:8], SHA256[:8],
    )  # fmt: skip
  return inception_extractor(
    tensors,
    preprocessing=preprocessing,
    about={'file': path.name, 'sha256': digest},
  )


def _trained(
  data: DataConfig, num_classes: int
) -> tuple[classifier.Classifier, dict[str, Any]]:
  images, labels = load_all(open_source(data, data.train_split))
  logging.info(
    'Training the classifier on %d images of %s.', len(images), data.name
  )
  steps, batch_size = classifier.recipe(images.shape[1:])
  network = classifier.train_classifier(
    images,
    labels,
    num_classes,
    steps=steps,
    batch_size=batch_size,
    flip=data.flip,
  )
  return network, {'data': data.name, 'split': data.train_split}
