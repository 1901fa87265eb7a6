"""Random tensors of small networks, with published names and layouts."""

import functools
import json
import types

import numpy as np

from dit import model
from dit.config import DiTConfig
from dit.weights import convert

SIZES = {'size': 4, 'channels': 3, 'num_classes': 5, 'patch': 2, 'depth': 3,
         'width': 8, 'num_heads': 2}  # fmt: skip
TAPS = {family: (1,) if 'ig_' in family else () for family in convert.FAMILIES}
PLAIN = ('dit', 'sit', 'ig_sit', 'repa')
# All architecture options of the LightningDiT code.
RICH = {'norm': 'rmsnorm', 'mlp': 'swiglu', 'rope': True, 'qk_norm': 'rmsnorm'}


def make_config(family, **changes):
  options = {} if family in PLAIN else RICH
  convention = convert.FAMILIES[family].convention
  return DiTConfig(**{**SIZES, **options, 'taps': TAPS[family],
                      'convention': convention, **changes})  # fmt: skip


def frozen(arrays):
  """Makes arrays read-only, so that conversions cannot change the arrays."""
  for array in arrays.values():
    array.flags.writeable = False
  return types.MappingProxyType(arrays)


def random_bits(shapes):
  """Returns float32 arrays of random bits, including NaNs and subnormals."""
  rng = np.random.default_rng(0)
  draw = functools.partial(rng.integers, 0, 2**32, dtype=np.uint32)
  return {name: draw(shape).view(np.float32) for name, shape in shapes.items()}


def random_tensors(config):
  return frozen(random_bits(convert.published_shapes(config)))


def random_params(config):
  leaves = convert.flatten(model.shapes(config))
  return random_bits({path: leaf.shape for path, leaf in leaves.items()})


def read(tensors, family, **changes):
  arguments = {'num_heads': 2, 'taps': TAPS[family], **changes}
  return convert.from_published(tensors, family=family, **arguments)


def write(config, flat, family):
  return convert.to_published(config, convert.unflatten(flat), family=family)


def edit_config(folder, **changes):
  """Sets entries of a folder's config.json; the value None deletes an entry."""
  path = folder / 'config.json'
  about = json.loads(path.read_text()) | changes
  about = {key: value for key, value in about.items() if value is not None}
  path.write_text(json.dumps(about))


def same_bits(ours, expected):
  assert ours.keys() == expected.keys()
  for name, array in ours.items():
    assert array.dtype == expected[name].dtype == np.float32
    np.testing.assert_array_equal(
      array.view(np.uint32), expected[name].view(np.uint32), name, strict=True
    )
