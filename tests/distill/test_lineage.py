"""Tests what a folder of weights says about a student."""

import pytest

from distill.config import build_student
from distill.lineage import _method_of
from train.config_file import load_config, override


@pytest.mark.parametrize(
  ('argument', 'keys', 'method'),
  [
    ('dm,1', [], 'DMD'),
    ('hybrid,4', [], 'Decoupled DMD (hybrid schedule)'),
    ('sharing,4', [], 'DMD with timestep sharing, with a discriminator'),
    ('dm,1', ['distill.dm_weight=0.0', 'distill.gan_weight=1.0'],
     'DMD without its DM term, with a discriminator'),
    ('hybrid,1', ['distill.regularizer=mean_variance'],
     'Decoupled DMD (hybrid schedule), regularizer mean_variance'),
  ],
)  # fmt: skip
def test_a_method_has_a_name(argument, keys, method):
  config = load_config(f'configs/distill/digits.py:{argument}')
  student = build_student(override(config, keys).to_dict())
  assert _method_of(student.distill) == method
