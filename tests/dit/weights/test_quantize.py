"""Tests packing, errors, sizes and checks of quantized weights."""

import dataclasses
import hashlib
import json
import re

import ml_dtypes
import numpy as np
import pytest
from networks import assert_same
from published_tensors import edit_config
from refusals import is_refused
from safetensors.numpy import load_file, save_file

from core.errors import InputError
from dit import model
from dit.config import DiTConfig, named_size
from dit.weights import quantize
from dit.weights.convert import flatten, unflatten
from dit.weights.folder import load_config, load_folder, save_folder, scheme_of
from dit.weights.quantize import SCHEMES, bits_of, pack, unpack

QKV = 'blocks/attention/qkv/kernel'
B_SIZE = {'int8': 0.30, 'int6': 0.24, 'int4': 0.17}


pytestmark = pytest.mark.usefixtures('traced_once')


@pytest.fixture(scope='module')
def leaves(config):
  return flatten(model.shapes(config))


@pytest.fixture(scope='module')
def params(leaves):
  rng = np.random.default_rng(0)
  return {
    name: np.float32(
      rng.normal(size=leaf.shape) * np.exp(rng.normal(size=leaf.shape[-1]))
    )
    for name, leaf in leaves.items()
  }


@pytest.fixture(params=SCHEMES)
def scheme(request):
  return request.param


@pytest.fixture
def folder(tmp_path, config, params, scheme):
  options = {'info': {'step': 3}, 'scheme': scheme}
  save_folder(tmp_path / 'net', config, unflatten(params), **options)
  return tmp_path / 'net'


def refused(folder, *words):
  is_refused(lambda: load_folder(folder), *words)


def rewrite(folder, function):
  path = folder / 'model.safetensors'
  arrays = load_file(path)
  function(arrays)
  save_file(arrays, path)
  edit_config(folder, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize('bits', [8, 6, 4])
@pytest.mark.parametrize('count', [1, 2, 3, 4, 7, 256, 1001])
def test_packing_there_and_back(bits, count):
  values = np.random.default_rng(count).integers(0, 2**bits, count, np.uint8)
  packed = pack(values, bits)
  np.testing.assert_array_equal(unpack(packed, bits, count), values)
  assert packed.dtype == np.uint8
  assert 0 <= packed.size - count * bits / 8 < 3


def test_packing_is_of_the_lowest_bits_first():
  """The values 1, 2, 3 and 63 become 1 + 2 * 2^6 + 3 * 2^12 + 63 * 2^18."""
  word = 1 + (2 << 6) + (3 << 12) + (63 << 18)
  expected = list(word.to_bytes(3, 'little'))
  assert pack(np.uint8([1, 2, 3, 63]), 6).tolist() == expected
  assert pack(np.uint8([1, 2, 15]), 4).tolist() == [1 + (2 << 4), 15]


def test_each_parameter_has_its_bits(leaves, scheme):
  bits, modulation = SCHEMES[scheme]
  found = {name: bits_of(name, scheme) for name in leaves}
  layers = 'attention/qkv', 'attention/proj', 'mlp/fc1', 'mlp/fc2'
  expected = {f'blocks/{name}/kernel': bits for name in layers}
  expected['blocks/modulation/kernel'] = modulation
  assert {name: b for name, b in found.items() if b} == expected
  arrays = quantize.stored(leaves, scheme)
  kept = {name: arrays[name].dtype for name in leaves if name not in expected}
  tables = {'position', 'rotary'} & leaves.keys()
  assert {n for n, dtype in kept.items() if dtype == np.float32} == tables
  others = {dtype for n, dtype in kept.items() if n not in tables}
  assert others == {np.dtype(ml_dtypes.bfloat16)}


def test_errors_are_at_most_half_a_step(folder, leaves, params, scheme):
  arrays = load_file(folder / 'model.safetensors')
  loaded = flatten(load_folder(folder)[1])
  assert loaded.keys() == params.keys()
  for name, param in params.items():
    assert loaded[name].dtype == np.float32
    if bits_of(name, scheme):
      scale = np.float32(arrays[f'{name}.scale'])
      steps = np.repeat(scale, param.shape[1] // scale.shape[1], axis=1)
      assert (abs(loaded[name] - param) <= steps / 2 * (1 + 1e-5)).all(), name
      groups = 1 if bits_of(name, scheme) == 8 else -(-param.shape[1] // 64)
      assert scale.shape[1] == groups
    else:
      dtype = quantize.stored(leaves, scheme)[name].dtype
      np.testing.assert_array_equal(loaded[name], np.float32(dtype.type(param)))


def test_zeros_stay_and_tiny_kernels_are_no_trouble(leaves, scheme):
  """Zeros (such as in new heads) stay 0. Tiny values stay nonzero."""
  rng = np.random.default_rng(0)
  for size in (0, 1e-38, 1e-20, 1e30):
    params = {
      name: np.float32(size * rng.integers(-1, 2, leaf.shape))
      for name, leaf in leaves.items()
    }
    arrays = quantize.quantize(params, scheme)
    loaded = quantize.dequantize(arrays, leaves, scheme)
    for name, param in params.items():
      assert np.isfinite(loaded[name]).all()
      assert not loaded[name][param == 0].any()
      assert loaded[name][param != 0].all()


def test_the_integers_are_those_of_qwix():
  """Integers equal quantize(w, 'int6', channelwise_axes=(1,)) of qwix 0.1.8."""
  kernel = np.float32(
    [[0.31, 7.875], [-7.875, 0.1], [2.6, -0.125], [-1.37, -7.8]]
  )
  expected = {
    6: ([1, -32, 10, -5], [31, 0, 0, -31]),
    4: ([0, -7, 2, -1], [7, 0, 0, -7]),
    8: ([5, -127, 42, -22], [127, 2, -2, -126]),
  }
  for bits, columns in expected.items():
    packed, _ = quantize._quantize_layer(kernel, bits)
    values = unpack(packed, bits, 8).reshape(4, 2).astype(int) - 2 ** (bits - 1)
    assert tuple(values.T.tolist()) == columns


def test_groups_divide_the_inputs():
  sizes = {96: 48, 768: 64, 1152: 64, 682: 62, 3: 3, 67: 1}
  assert {n: quantize._group(n, 4) for n in sizes} == sizes
  assert {n: quantize._group(n, 6) for n in sizes} == sizes
  assert quantize._group(682, 8) == 682


def test_computed_sizes_are_those_of_the_file(folder, leaves, scheme):
  size = (folder / 'model.safetensors').stat().st_size
  with (folder / 'model.safetensors').open('rb') as file:
    header = 8 + int.from_bytes(file.read(8), 'little')
  assert size - header == size_of(quantize.stored(leaves, scheme))


def size_of(leaves):
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())


@pytest.mark.parametrize(('name', 'sizes'), [
  ('SiT-B/2', {'size': 32, 'channels': 4, 'taps': (4,)}),
  ('DiT-B/2', {'size': 32, 'channels': 4}),
  ('LightningDiT-B/1', {'size': 16, 'channels': 32, 'taps': (4,)}),
])  # fmt: skip
def test_networks_of_size_b_are_small(name, sizes):
  config = DiTConfig(num_classes=1000, **sizes, **named_size(name))
  leaves = flatten(model.shapes(config))
  for scheme, most in B_SIZE.items():
    share = size_of(quantize.stored(leaves, scheme)) / size_of(leaves)
    assert most - 0.05 < share <= most, (scheme, share)


def test_what_a_folder_says_of_itself(folder, config, scheme):
  about = json.loads((folder / 'config.json').read_text())
  assert about['quantized'] == {'scheme': scheme}
  assert re.fullmatch('[0-9a-f]{64}', about['sha256'])
  loaded, params, info = load_folder(folder)
  assert loaded == config
  assert info == {'step': 3, 'quantized': {'scheme': scheme}}
  assert scheme_of(info) == scheme_of(load_config(folder)[1]) == scheme
  # A folder saved with dequantized weights has no entry "quantized".
  save_folder(folder.parent / 'wide', config, params, info=info)
  again, info = load_folder(folder.parent / 'wide')[1:]
  assert info == {'step': 3}
  assert_same(again, params)


def test_low_precision_parameters(tmp_path, config, params, scheme):
  config = dataclasses.replace(config, param_dtype='bfloat16')
  low = {name: a.astype(ml_dtypes.bfloat16) for name, a in params.items()}
  save_folder(tmp_path / 'net', config, unflatten(low), info={}, scheme=scheme)
  loaded = load_folder(tmp_path / 'net')[1]['label_embed']
  np.testing.assert_array_equal(loaded, np.float32(low['label_embed']))


@pytest.mark.parametrize('quantized', [True, False])
def test_one_wrong_bit_is_noticed(folder, config, params, quantized):
  if not quantized:
    folder = folder.parent / 'wide'
    save_folder(folder, config, unflatten(params), info={})
  path = folder / 'model.safetensors'
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  refused(folder, path, folder / 'config.json', 'SHA-256')
  for wrong in (3, [], 'x\ny'):
    edit_config(folder, sha256=wrong)
    refused(folder, 'SHA-256')
  edit_config(folder, sha256=None)
  if quantized:
    refused(folder, 'SHA-256')
  else:  # Older versions wrote no hash.
    load_folder(folder)


def test_file_and_config_of_different_kinds(folder, config, params, scheme):
  path, wide = folder / 'model.safetensors', folder.parent / 'wide'
  edit_config(folder, quantized=None)
  refused(folder, path, f'holds {scheme} weights', 'describes unquantized ones')
  other = next(name for name in SCHEMES if name != scheme)
  edit_config(folder, quantized={'scheme': other})
  refused(folder, path, f'holds {scheme} weights', f'describes {other} ones')
  save_folder(wide, config, unflatten(params), info={})
  edit_config(wide, quantized={'scheme': scheme})
  refused(wide, 'holds unquantized weights', f'describes {scheme} ones')


@pytest.mark.parametrize('value', [
  'int8', {}, [], {'scheme': 'int7'}, {'scheme': ['int8']}, 3, False,
  {'scheme': 'int8', 'bits': 3}, {'scheme': 'a\nb'},
])  # fmt: skip
def test_schemes_that_are_none(folder, value):
  edit_config(folder, quantized=value)
  refused(folder, folder / 'config.json', 'expected one of', '"int6"')


def test_wrong_arrays(folder):
  packed, scale = f'{QKV}.packed', f'{QKV}.scale'
  original = load_file(folder / 'model.safetensors')

  def wrong(name, array, *words):
    rewrite(folder, lambda arrays: arrays.update(original | {name: array}))
    refused(folder, folder / 'model.safetensors', name, *words)

  wrong(packed, original[packed][:, :-1], 'of shape', 'expected (5,')
  wrong(packed, original[packed].view(np.int8), 'int8', 'expected uint8')
  wrong(scale, original[scale][:, :0], 'of shape')
  wrong(scale, np.float32(original[scale]), 'float32', 'expected bfloat16')
  wrong('position', original['position'].astype(np.float16), 'float16')
  wrong('extra.packed', original[packed], 'has unknown')
  rewrite(folder, lambda arrays: arrays.pop('extra.packed'))
  load_folder(folder)
  rewrite(folder, lambda arrays: arrays.pop(scale))
  refused(folder, 'lacks', scale)


def test_only_finite_parameters_are_quantized(tmp_path, config, params, scheme):
  for value in (np.nan, np.inf):
    wrong = np.full_like(params['label_embed'], value)
    wrong = unflatten(params | {'label_embed': wrong})
    with pytest.raises(InputError, match=r"'label_embed' has .* not finite"):
      save_folder(tmp_path / 'net', config, wrong, info={}, scheme=scheme)
  assert not [*tmp_path.iterdir()]
