"""Runs the code in docs/extending.md that defines a convolutional backbone."""

import pathlib
import re
import types

import pytest

from dit import backbone

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'extending.md'


def source():
  blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  (code,) = (block for block in blocks if 'BACKBONE = Backbone(' in block)
  return code


CONVNET = types.ModuleType('convnet')
exec(compile(source(), 'docs/extending.md', 'exec'), CONVNET.__dict__)


@pytest.fixture
def registered(monkeypatch):
  both = (*backbone.BACKBONES, CONVNET.BACKBONE)
  monkeypatch.setattr(backbone, 'BACKBONES', both)
