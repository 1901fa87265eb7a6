"""Tests which methods of the teacher's guidance are kept."""

import pytest

from configs import digits, distill
from distill.config import DistillConfig
from guidance import parse


@pytest.mark.parametrize(
  ('text', 'kept'),
  [
    ('ig:1,cfg:2', 'cfg:2'),
    ('ig:1.5,cfg:1', 'ig:1.5'),
    ('ig:1:null=1.5,cfg:2', 'ig:1:null=1.5,cfg:2'),
    ('ig:1:null=1,cfg:2', 'cfg:2'),
    ('ig:1.5:null=1.2,cfg:1', 'ig:1.5'),
  ],
)
def test_methods_without_effect_are_dropped(text, kept):
  config = digits.get_config()
  distill.configure(config, 'hybrid', 4, guidance=text)
  section = config.distill.to_dict()
  names = DistillConfig.__dataclass_fields__
  settings = DistillConfig(**{k: v for k, v in section.items() if k in names})
  assert settings.teacher_guidance == parse(kept)
