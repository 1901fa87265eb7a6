"""REPA files have a SiT and projectors. Conversion skips the projectors."""

import re

import numpy as np
import pytest
from published_tensors import (
  frozen,
  make_config,
  random_tensors,
  read,
  same_bits,
  write,
)
from refusals import refused

from dit.weights import convert, repa


def projectors(count=1):
  """Returns tensors of REPA projectors with three layers each."""
  return {
    f'projectors.{k}.{layer}.{kind}': np.ones(shape, np.float32)
    for k in range(count)
    for layer, size in ((0, (16, 8)), (2, (16, 16)), (4, (12, 16)))
    for kind, shape in (('weight', size), ('bias', size[:1]))
  }


@pytest.mark.parametrize('count', [0, 1, 2])
@pytest.mark.parametrize('older', [False, True])
def test_repas_projectors_are_skipped_by_name(monkeypatch, count, older):
  lines = []
  monkeypatch.setattr(
    repa.logging, 'info', lambda text, *words: lines.append(text % words)
  )
  config = make_config('repa')
  tensors = dict(random_tensors(config))
  given = tensors | projectors(count)
  if older:  # Old files use the name decoder_blocks.
    given = {
      re.sub(r'^blocks\.([12])\.', lambda m: f'decoder_blocks.{int(m[1]) - 1}.',
             name): tensor
      for name, tensor in given.items()
    }  # fmt: skip
  inferred, params = read(frozen(given), 'repa')
  assert inferred == config
  same_bits(write(config, convert.flatten(params), 'repa'), tensors)
  assert len(lines) == bool(count)
  if count:
    assert f'({6 * count} tensors): projectors.0.0.weight' in lines[0]


def test_projectors_have_no_place_in_other_families():
  tensors = random_tensors(make_config('sit'))
  with refused("'projectors.0.0.bias' has no place in family sit"):
    read(frozen(dict(tensors) | projectors()), 'sit')
  tensors = dict(random_tensors(make_config('repa')))
  with refused("'decoder_blocks.x.attn' has no place in family repa"):
    read(tensors | {'decoder_blocks.x.attn': np.ones(3)}, 'repa')
