"""Opens feature extractors by name.

inception:FILE       Inception of FID from the published .pth or a converted
                     .safetensors; FILE may start with hf:// or https://
classifier           classifier of the training split, trained once
classifier:FOLDER    classifier from `main.py train-features`
pixels               pixels; images above 32 x 32 are averaged to about 16 x 16
FILE.py:NAME         function from images (B, H, W, C) float32 in [0, 255] to
                     features (B, F)
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from core.errors import InputError, quote
from core.files import file_sha256
from core.python_files import load_function
from core.ranges import WebText, check_value
from dit.model import fingerprint
from dit.weights.files import fetch, header_of, read_tensors
from dit.weights.folder import save_tensors
from evaluate import classifier
from evaluate.classifier_cache import trained_once
from evaluate.extractor import (
  SHA256,
  URL,
  Extractor,
  Kind,
  classifier_extractor,
  inception_extractor,
  pixels_extractor,
  user_extractor,
)
from evaluate.real_images import RealData

KINDS = 'inception:FILE, classifier, classifier:FOLDER, pixels, or FILE.py:NAME'


def kind_of(spec: str) -> Kind:
  """Returns the properties that follow from an extractor's name alone."""
  check_value('eval.extractor', spec, WebText)
  kind, _, suffix = spec.partition(':')
  if kind == 'inception':
    if not suffix:
      raise InputError(
        f'Inception needs its weights: download {URL} and give '
        '--extractor=inception:FILE (or that address in place of FILE).'
      )
    return Kind('Inception', is_inception=True)
  if kind == 'classifier':
    return Kind('a classifier', reads_classes=True)
  if spec == 'pixels':
    return Kind(spec)
  path = pathlib.Path(kind).expanduser()
  if path.suffix == '.py' and suffix and path.is_file():
    return Kind(f'{path.stem}:{suffix}')
  raise InputError(f'extractor {quote(spec)} is not known; expected {KINDS}.')


def classes_of(spec: str, num_classes: int) -> int | None:
  """Returns a classifier's number of classes; None for other extractors."""
  kind, _, folder = spec.partition(':')
  if kind != 'classifier':
    return None
  return classifier.load(folder)[0].num_classes if folder else num_classes


def open_extractor(
  spec: str,
  preprocessing: str,
  real: RealData,
  read: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> Extractor:
  """Opens an extractor by name.

  Raises InputError if the name is unknown, or a file is missing or unsuitable.

  Args:
    spec: Name of the extractor.
    preprocessing: Preprocessing of Inception, one of `resize.PRESETS`.
    real: Training split, which is used to train a classifier.
    read: Function that returns images and labels of the training split.
  """
  (name, *_), (kind, _, suffix) = kind_of(spec), spec.partition(':')
  if kind == 'inception':
    return _inception(suffix, preprocessing)
  if kind == 'classifier':
    if suffix:
      network, record = classifier.load(suffix)
      record = {**record, 'folder': suffix}
    else:
      network, record = _train(real, read)
    return classifier_extractor(network, record)
  if kind == 'pixels':
    return pixels_extractor()
  path = pathlib.Path(kind).expanduser()
  record = {'file': str(path), 'code_sha256': file_sha256(path)}
  return user_extractor(name, load_function(path, suffix), record)


def _inception(file: str, preprocessing: str) -> Extractor:
  try:
    path = fetch(file)
  except InputError as error:
    raise InputError(
      f'{error} The published weights are at {URL}; give '
      '--extractor=inception:FILE.'
    ) from error
  digest, (tensors, _) = file_sha256(path), read_tensors(path)
  origin: dict[str, str | None] = {'file': path.name, 'sha256': digest}
  header = header_of(path)
  if header.get('tensors_sha256') == fingerprint(tensors):
    origin['source_sha256'] = header.get('source_sha256')
  if file == URL and digest != SHA256:
    path.unlink()
    raise InputError(f'{file} is damaged by the download; fetch it again.')
  if SHA256 not in origin.values():
    logging.warning(
      '%s is not the published file (SHA-256 %s..., expected %s...): its '
      'distances are not called FID.',
      file, digest[:8], SHA256[:8],
    )  # fmt: skip
  return inception_extractor(tensors, preprocessing=preprocessing, about=origin)


def convert_inception(source: str, target: str) -> str:
  """Saves the published Inception as .safetensors; returns a one-line report.

  The target is readable without torch, and its header has the source's hash.
  Raises InputError if the source is not the published file, or if the target
  exists.
  """
  path = fetch(source)
  if (digest := file_sha256(path)) != SHA256:
    raise InputError(
      f'{source} is not the published Inception: its SHA-256 is {digest}, '
      f'expected {SHA256} ({URL}).'
    )
  tensors, _ = read_tensors(path)
  save_tensors(
    target,
    tensors,
    source_sha256=digest,
    tensors_sha256=fingerprint(tensors),
  )
  return f'{source} -> {target}: {len(tensors)} tensors of Inception.'


def _train(
  real: RealData, read: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[classifier.Classifier, dict[str, Any]]:
  images, labels = read()
  data = real.config
  network = trained_once(
    images,
    labels,
    real.num_classes,
    data_dir=data.dir,
    name=data.name,
    flip=data.flip,
  )
  return network, {'data': data.name, 'split': data.train_split}
