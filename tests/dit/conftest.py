import functools

import networks
import pytest

from dit import backbone, model
from dit.config import DiTConfig

SIZES = {'size': 8, 'channels': 3, 'num_classes': 10, 'patch': 2, 'depth': 5,
         'width': 32, 'num_heads': 4, 'taps': (2, 3)}  # fmt: skip
VARIANTS = {
  'lightningdit': {
    'mlp_ratio': 3.0,  # The hidden width 64 is a multiple of 8.
    'norm': 'rmsnorm', 'mlp': 'swiglu', 'rope': True, 'qk_norm': 'rmsnorm',
    'shift': False, 'learned_variance': True, 'convention': 'reversed',
  },
  # The other test folders use this network.
  'sit': {},
}  # fmt: skip
SLOW = pytest.param('sit', marks=pytest.mark.slow)


@pytest.fixture(scope='session', params=['lightningdit', SLOW])
def config(request):
  return DiTConfig(**SIZES, **VARIANTS[request.param])


@pytest.fixture(scope='session')
def denoiser(config):
  """Overrides the fixture in tests/, to use the `config` of this folder."""
  return networks.perturbed(config)


@pytest.fixture(scope='module')
def traced_once():
  """Caches network shapes, because tracing takes most of a test's time."""
  with pytest.MonkeyPatch.context() as patch:
    for module in (model, backbone):
      patch.setattr(module, 'shapes', functools.cache(module.shapes))
    yield
