"""The second backbone: the page docs/extending.md has its lines."""

import pathlib
import re
import types

import pytest

from dit import backbone

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'extending.md'


def source():
  """Returns the lines of the page that define the backbone."""
  blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  (code,) = (block for block in blocks if 'BACKBONE = Backbone(' in block)
  return code


CONVNET = types.ModuleType('convnet')
exec(compile(source(), 'docs/extending.md', 'exec'), CONVNET.__dict__)


@pytest.fixture
def registered(monkeypatch):
  """Adds the backbone to those that commands know."""
  both = (*backbone.BACKBONES, CONVNET.BACKBONE)
  monkeypatch.setattr(backbone, 'BACKBONES', both)
