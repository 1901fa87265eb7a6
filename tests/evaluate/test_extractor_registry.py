"""The name FID requires the published weights or their conversion."""

import hashlib
import math

import inception_weights
import pytest
from safetensors.numpy import save_file

from core.errors import InputError
from dit.weights.files import header_of
from evaluate import extractor as extractor_lib
from evaluate import extractor_registry
from evaluate.metrics import name_of
from train.checkpointer import _rank


@pytest.mark.slow
def test_inception_and_its_name(tmp_path, monkeypatch):
  tensors = inception_weights.tensors()
  source, target = tmp_path / 'source.safetensors', tmp_path / 'new.safetensors'
  save_file(tensors, source)
  digest = hashlib.sha256(source.read_bytes()).hexdigest()

  def opened(path):
    spec = f'inception:{path}'
    return extractor_registry.open_extractor(spec, 'adm', None, None)

  assert name_of('fd', opened(source)) == 'FD (Inception)'
  with pytest.raises(InputError, match='is not the published Inception'):
    extractor_registry.convert_inception(str(source), str(target))
  for module in (extractor_registry, extractor_lib):
    monkeypatch.setattr(module, 'SHA256', digest)  # `source` is now published.
  extractor_registry.convert_inception(str(source), str(target))
  assert name_of('fd', opened(source)) == 'FID'
  assert name_of('fd', opened(target)) == 'FID'
  assert opened(source).identity() == opened(target).identity()
  header = header_of(target)
  save_file({**tensors, 'fc.bias': tensors['fc.bias'] + 1}, target, header)
  assert name_of('fd', opened(target)) == 'FD (Inception)'


@pytest.mark.parametrize(('spec', 'words'), [
  ('inception', 'download https://'),
  ('inception:', 'download https://'),
  ('classifer:x', 'expected inception:FILE'),
  ('nothing.py:f', 'expected inception:FILE'),
  ('pixels:x', 'expected inception:FILE'),
  ('', 'expected inception:FILE'),
])  # fmt: skip
def test_unknown_extractors(spec, words):
  with pytest.raises(InputError, match=words):
    extractor_registry.kind_of(spec)


def test_pixels_are_an_extractor():
  assert extractor_registry.kind_of('pixels').name == 'pixels'
  found = extractor_registry.open_extractor('pixels', 'adm', None, None)
  assert name_of('fd', found) == 'FD (pixels)'


def test_ranks_of_other_names_do_not_mix():
  assert _rank({'loss': 1.5}) == 1.5  # Older checkpoints store losses.
  assert _rank({'rank': 2.0, 'by': 'fd'}, 'fd') == 2.0
  assert _rank({'loss': 1.5}, 'fd') == math.inf
  assert _rank({'rank': 2.0, 'by': 'fd'}) == math.inf
