"""Tests which published files are readable, and that no file can run code."""

import argparse
import importlib.util
import io
import json
import os
import pathlib
import pickle
import sys
import types
import urllib.request
import zipfile

import ml_dtypes
import numpy as np
import pytest
from refusals import refused as refusal
from safetensors.numpy import load_file, save

from core.errors import InputError
from dit.weights.files import read_tensors

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden/ig_sit/model.safetensors'
ARRAYS = {'a': np.arange(6.0, dtype=np.float32).reshape(2, 3), 'b': np.ones(4)}


class Bomb:
  """An object that creates a file when it is unpickled."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return os.system, (f'touch {self.marker}',)


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason='torch is not installed')


@pytest.fixture
def write(tmp_path):

  def make(name, data):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name

  return make


@pytest.fixture
def save_pickle(torch, tmp_path):

  def make(content, name='x.pt', **options):
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name

  return make


def refused(source, *words, **options):
  with refusal(pathlib.PurePath(source).name, *words) as caught:
    read_tensors(source, **options)
  assert len(str(caught.value)) < 600


def assert_same(tensors, expected):
  assert tensors.keys() == expected.keys()
  for name, tensor in tensors.items():
    assert tensor.dtype == np.float32, name
    np.testing.assert_array_equal(tensor, expected[name])


def header(**tensors):
  """Returns the bytes of a safetensors file with 64 bytes of data."""
  text = json.dumps(tensors).encode()
  return len(text).to_bytes(8, 'little') + text + bytes(64)


def test_golden_file():
  tensors, taken = read_tensors(GOLDEN)
  assert taken == 'as stored'
  assert_same(tensors, load_file(GOLDEN))


def test_floating_point_becomes_float32(write):
  values = np.asarray([1.5, -0.25, 3.0])
  types_ = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
  stored = {np.dtype(t).name: values.astype(t) for t in types_}
  data = save({**stored, 'count': np.asarray(7), 'on': np.asarray(True)})
  tensors, _ = read_tensors(write('x.safetensors', data))
  assert tensors.pop('count') == 7
  assert tensors.pop('on').dtype == bool
  assert_same(tensors, dict.fromkeys(stored, values))


def test_prefixes_of_wrappers_are_stripped(write):
  names = ('module.a', '_orig_mod.b', 'module._orig_mod.c.module.d', 'module_e')
  data = save(dict.fromkeys(names, ARRAYS['a']))
  tensors, _ = read_tensors(write('x.safetensors', data))
  assert tensors.keys() == {'a', 'b', 'c.module.d', 'module_e'}

  data = save({'module.a': ARRAYS['a'], 'a': ARRAYS['a']})
  refused(write('y.safetensors', data), 'names differ by a prefix')


@pytest.mark.parametrize('name', ['x.npz', 'x.npy', 'x.bin', 'x', 'x.pkl'])
def test_other_kinds_are_refused_unread(write, tmp_path, name):
  data = io.BytesIO()
  bomb = np.asarray([Bomb(tmp_path / 'marker')], object)
  np.savez(data, bomb, allow_pickle=True)
  refused(write(name, data.getvalue()), '.safetensors, .pt, .pth, .ckpt')
  assert not (tmp_path / 'marker').exists()


def test_source_that_is_not_there(tmp_path):
  (tmp_path / 'folder.safetensors').mkdir()
  refused(tmp_path / 'x.safetensors', 'is not there')
  refused(tmp_path / 'x.pt', 'is not there')
  refused(tmp_path / 'folder.safetensors', 'is not a file')
  refused(tmp_path / f'{"x" * 300}.safetensors', 'is not there')
  refused('gs://bucket/x.safetensors', 'not on this machine')
  with pytest.raises(InputError, match=r"'emma'.*Did you mean 'ema'"):
    read_tensors('x.pt', weights='emma')


def test_file_cut_short_anywhere(write):
  data = save(ARRAYS)
  for length in (*range(0, len(data), 3), len(data) - 1):
    refused(write('x.safetensors', data[:length]), 'cannot be read', 'damaged')
  refused(write('x.safetensors', data + b'more'), 'cannot be read')


@pytest.mark.parametrize('data, word', [
  (b'', 'header too small'),
  (b'\xff' * 100, 'header too large'),
  ((10**9).to_bytes(8, 'little') + b'{}', 'header too large'),
  ((5).to_bytes(8, 'little') + b'{"a":', 'invalid JSON'),
  ((4).to_bytes(8, 'little') + b'\xff\xfe\x00\x01', 'UTF-8'),
  (header(a={'dtype': 'Q7', 'shape': [16], 'data_offsets': [0, 64]}), 'Q7'),
  (header(a={'dtype': 'F32', 'shape': [15], 'data_offsets': [0, 64]}), ''),
  (header(a={'dtype': 'F32', 'shape': [16], 'data_offsets': [8, 72]}), ''),
  (header(a={'dtype': 'F32', 'shape': [-4], 'data_offsets': [0, 64]}), ''),
  (header(a={'dtype': 'F32', 'shape': [2**62, 8], 'data_offsets': [0, 64]}),
   'overflow'),
  (pickle.dumps([1, 2, 3]), ''),
])  # fmt: skip
def test_broken_header(write, data, word):
  refused(write('x.safetensors', data), 'cannot be read', word)


def test_type_that_numpy_lacks(write):
  data = header(a={'dtype': 'F8_E4M3', 'shape': [64], 'data_offsets': [0, 64]})
  refused(write('x.safetensors', data), "'a'", 'float8', 'expected float32')


def test_plain_dictionary(torch, save_pickle):
  path = save_pickle({name: torch.tensor(a) for name, a in ARRAYS.items()})
  for weights in ('ema', 'raw'):
    tensors, taken = read_tensors(path, weights=weights)
    assert taken == 'as stored'
    assert_same(tensors, ARRAYS)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.ckpt'])
def test_training_checkpoint(torch, save_pickle, zipped, suffix):
  content = {
    'ema': {'a': torch.full((2, 2), 1.5, dtype=torch.bfloat16)},
    'model': {'module.a': torch.nn.Parameter(torch.ones(2, 2).half().T)},
    'opt': {'state': {0: {'step': torch.tensor(3)}}, 'param_groups': [{}]},
    'args': argparse.Namespace(lr=1e-4, model='SiT-XL/2'),
    'steps': 7,
  }
  options = {'_use_new_zipfile_serialization': zipped}
  path = save_pickle(content, f'x{suffix}', **options)
  tensors, taken = read_tensors(path)
  assert taken == 'ema'
  assert_same(tensors, {'a': np.full((2, 2), 1.5)})
  tensors, taken = read_tensors(path, weights='raw')
  assert taken == 'raw'
  assert_same(tensors, {'a': np.ones((2, 2))})


def test_set_that_a_checkpoint_lacks(torch, save_pickle):
  only = {'a': torch.ones(2)}
  path = save_pickle({'model': only, 'epoch': 3, 'ema': None})
  refused(path, 'holds no ema weights', '--weights=raw')
  assert read_tensors(path, weights='raw')[1] == 'raw'
  path = save_pickle({'ema': only})
  refused(path, 'holds no raw weights', '--weights=ema', weights='raw')


def test_state_dict_of_lightning(torch, save_pickle):
  content = {'state_dict': {'a': torch.ones(2)}, 'epoch': 3}
  tensors, taken = read_tensors(save_pickle(content, 'x.ckpt'))
  assert taken == 'as stored'
  assert_same(tensors, {'a': np.ones(2)})


def test_what_is_no_tensor_is_named(torch, save_pickle):
  one = torch.ones(2)
  refused(save_pickle({'a': one, 'epoch': 3}), "'epoch' of type int")
  refused(save_pickle({'ema': {'a': one, 'n': {}}}), "'n' of type dict", 'ema')
  refused(save_pickle({'a': one, 3: one}), '3 of type Tensor')
  refused(save_pickle([one]), 'holds a list')
  refused(save_pickle({'a': one, 's': one.to_sparse()}), "'s'", 'plain array')
  refused(save_pickle({'m': torch.ones(2, device='meta')}), "'m'")


@pytest.mark.parametrize('place', ['weights', 'beside'])
@pytest.mark.parametrize('zipped', [True, False])
def test_nothing_that_a_pickle_asks_for_is_run(
  torch, save_pickle, tmp_path, zipped, place
):
  marker = tmp_path / 'marker'
  content = {'ema': {'a': torch.ones(2)}}
  (content['ema'] if place == 'weights' else content)['b'] = Bomb(marker)
  path = save_pickle(content, _use_new_zipfile_serialization=zipped)
  torch.load(path, weights_only=False)
  assert marker.exists(), 'the bomb is no bomb'
  marker.unlink()
  refused(path, 'refused: it asks for posix.system')
  assert not marker.exists()


def test_nothing_that_a_bare_pickle_asks_for_is_run(torch, write, tmp_path):
  del torch
  marker = tmp_path / 'marker'
  for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    data = pickle.dumps({'a': Bomb(marker)}, protocol)
    refused(write('x.pt', data))
    assert not marker.exists()


def test_arrays_of_objects_are_refused(save_pickle):
  content = {'a': np.asarray([{}, None], object)}
  refused(save_pickle(content), 'numpy', '_reconstruct', 'tensors only')


@pytest.mark.parametrize('zipped', [True, False])
def test_pickle_cut_short_anywhere(torch, save_pickle, write, zipped):
  content = {'ema': {'a': torch.ones(20)}, 'args': argparse.Namespace(x=1)}
  path = save_pickle(content, _use_new_zipfile_serialization=zipped)
  data = path.read_bytes()
  # In the old pickle format, a truncated name gives another message.
  words = ['cannot be read', 'truncated'] if zipped else []
  for length in (*range(0, len(data), 29), len(data) - 1):
    refused(write('x.pt', data[:length]), *words)


def test_other_content_in_a_pickle_name(torch, write):
  del torch
  data = io.BytesIO()
  with zipfile.ZipFile(data, 'w') as archive:
    archive.writestr('x', 'y')
  for content in (b'some text', data.getvalue(), save(ARRAYS)):
    refused(write('x.pt', content), 'cannot be read')


@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.ckpt'])
def test_without_torch_the_error_says_what_to_install(
  write, monkeypatch, suffix
):
  monkeypatch.setitem(sys.modules, 'torch', None)
  path = write(f'x{suffix}', b'anything')
  refused(path, 'pip install torch', 'requirements-torch.txt', '.safetensors')


def test_without_the_hub_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  refused('hf://org/name/x.safetensors', 'pip install huggingface_hub',
          'requirements-hub.txt')  # fmt: skip


def fake_hub(monkeypatch, download):
  module = types.SimpleNamespace(hf_hub_download=download)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', module)


def test_file_of_the_hub(monkeypatch):
  calls = []

  def download(repository, file, *, revision):
    calls.append((repository, file, revision))
    return str(GOLDEN)

  fake_hub(monkeypatch, download)
  tensors, taken = read_tensors('hf://org/name/a/b.safetensors')
  assert taken == 'as stored'
  assert_same(tensors, load_file(GOLDEN))
  read_tensors('hf://org/name/b.safetensors@v1.0')
  assert calls == [('org/name', 'a/b.safetensors', None),
                   ('org/name', 'b.safetensors', 'v1.0')]  # fmt: skip


def test_bad_addresses_of_the_hub(monkeypatch):
  fake_hub(monkeypatch, None)
  refused('hf://org/x.safetensors', 'hf://org/name/path')
  refused('hf://x.safetensors', 'hf://org/name/path')
  refused('hf://org/name/x.npz', 'expected .safetensors')
  refused('hf://org/name', 'expected .safetensors')


def test_failed_download_is_one_line(monkeypatch):
  def download(*args, **kwargs):
    raise OSError('401 Client Error.\n\nRepository Not Found.\n')

  fake_hub(monkeypatch, download)
  error = 'OSError: 401 Client Error. Repository Not Found.'
  refused('hf://org/name/x.safetensors', f'cannot be downloaded ({error})')


@pytest.mark.skipif(
  importlib.util.find_spec('huggingface_hub') is None,
  reason='huggingface_hub is not installed',
)
def test_the_real_hub_takes_our_call(monkeypatch):
  """The installed huggingface_hub accepts our arguments, and fails offline."""
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  refused('hf://no-such-org/none/x.safetensors', 'LocalEntryNotFoundError')


class Response(io.BytesIO):
  """Simulates a response of `urlopen`, with a declared length."""

  def __init__(self, body, length):
    super().__init__(body)
    self.headers = {'Content-Length': str(length)}


def test_web_addresses_are_fetched_once(tmp_path, monkeypatch):
  body, asked = save({'a': np.ones(3, np.float32)}), []

  def urlopen(url, timeout):
    asked.append(url)
    return Response(body, len(body))

  monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  url = 'https://host/path/a.safetensors'
  for _ in range(2):
    tensors, _ = read_tensors(url)
    np.testing.assert_array_equal(tensors['a'], 1)
  assert asked == [url]


def test_a_broken_download_leaves_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(
    urllib.request, 'urlopen', lambda url, timeout: Response(b'half', 8)
  )
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  refused('https://host/a.safetensors', 'cannot be downloaded')
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]
