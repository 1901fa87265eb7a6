"""Tests the effective CFG scale on a toy network."""

import dataclasses

import jax
import numpy as np
import pytest
from networks import Toy

from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from evaluate.effective_scale import effective_scale
from guidance import parse
from sample.generate import SampleConfig, Sampler

LABELS = np.arange(12) % 10
CONFIG = SampleConfig(solver='euler', steps=4, last_step_size=0.0, batch_size=8)


def measure(text, network=None, **changes):
  config = dataclasses.replace(CONFIG, **changes)
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  sampler = Sampler(
    network or Toy(), config, path_named('linear'), (6, 6, 3), mesh
  )
  return effective_scale(sampler, parse(text), LABELS, seed=1)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('none', 1), ('ig:1', 1), ('cfg:1', 1), ('cfg:2.5', 2.5), ('cfg:0.3', 0.3),
    ('cfg:0', 0),
    # The steps at t = 1 and 0.75 have scale 1, and 0.5 and 0.25 have scale 3.
    ('cfg:3@0-0.5', 2),
  ],
)  # fmt: skip
def test_of_cfg_is_its_mean_scale(text, expected):
  found = measure(text)
  assert found.value == pytest.approx(expected, abs=1e-5)
  assert found.error == pytest.approx(0, abs=1e-5)


def test_of_other_methods_varies_over_images():
  found = measure('ig:2')
  assert found.error > 1e-3
  assert abs(found.value - 1) > 1e-3
  # The direction of APG without its parallel part is that of CFG or shorter.
  assert 1 < measure('apg:3').value < 3


def test_where_it_is_undefined():
  assert measure('ig:2', Toy(null_label=False)) is None
  assert measure('ig:2', Toy(labels=False)) is None
  assert measure('ig:2', solver='dopri5') is None
