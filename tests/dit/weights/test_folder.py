"""A weight folder is complete, exact and verified. Nothing overwrites it."""

import dataclasses
import errno
import json
import os

import jax
import ml_dtypes
import networks
import numpy as np
import pytest
from refusals import is_refused
from safetensors.numpy import load_file, save_file

from core.errors import WriteError
from dit import model
from dit.weights import folder as weights
from dit.weights.folder import load_folder, save_folder, save_tensors

INFO = {'weights': 'ema', 'source': 'somewhere', 'step': 3, 'family': None}


pytestmark = pytest.mark.usefixtures('traced_once')


@pytest.fixture(scope='module')
def params(config):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype),
    model.shapes(config),
  )


@pytest.fixture
def folder(tmp_path, config, params):
  save_folder(tmp_path / 'net', config, params, info=INFO)
  return tmp_path / 'net'


def edit(folder, function):
  path = folder / 'config.json'
  about = json.loads(path.read_text())
  function(about)
  path.write_text(json.dumps(about))


def rewrite(folder, function):
  arrays = load_file(folder / 'model.safetensors')
  function(arrays)
  save_file(arrays, folder / 'model.safetensors')


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  networks.assert_same(a, b)
  assert jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype, a, b))


def below(folder):
  return sorted(folder.rglob('*'))


def refused(folder, *words):
  is_refused(lambda: load_folder(folder), *words)


def test_round_trip(folder, config, params):
  loaded, arrays, info = load_folder(folder)
  assert loaded == config
  assert info == INFO
  assert_same(arrays, params)
  names = ['config.json', 'model.safetensors']
  assert sorted(path.name for path in folder.iterdir()) == names
  stored = json.loads((folder / 'config.json').read_text())
  assert stored['format'] == 1
  assert stored['model'] == json.loads(json.dumps(dataclasses.asdict(config)))


def test_names_are_paths(folder):
  """Array names must not change, because other programs read the files."""
  names = load_file(folder / 'model.safetensors').keys()
  assert names >= {
    'patch_embed/kernel', 'position', 'label_embed', 'time_embed/fc1/bias',
    'blocks/attention/qkv/kernel', 'blocks/mlp/fc1/kernel',
    'blocks/modulation/bias', 'head/proj/kernel', 'tap_heads/proj/kernel',
  }  # fmt: skip


def test_devices_strides_and_precisions_do_not_matter(tmp_path, config, params):
  transposed = jax.tree.map(lambda a: np.asfortranarray(a), params)
  on_device = jax.tree.map(jax.numpy.asarray, params)
  for name, given in {'strided': transposed, 'device': on_device}.items():
    save_folder(tmp_path / name, config, given, info={})
    assert_same(load_folder(tmp_path / name)[1], params)

  config = dataclasses.replace(config, param_dtype='bfloat16')
  low = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16), params)
  for name, given in {'raw': low, 'ema': params}.items():  # An EMA is float32.
    save_folder(tmp_path / name, config, given, info={})
    assert_same(load_folder(tmp_path / name)[1], given)


def test_an_empty_folder_and_new_parents_are_used(
  tmp_path, config, params, monkeypatch
):
  for name in ('empty', 'here'):
    (tmp_path / name).mkdir()
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path / 'here')
  for target, place in (
    (tmp_path / 'empty', 'empty'), (tmp_path / 'new/a/b', 'new/a/b'),
    ('~/net', 'net'), ('.', 'here'),
  ):  # fmt: skip
    save_folder(target, config, params, info=INFO)
    assert_same(load_folder(tmp_path / place)[1], params)
  assert len([path for path in below(tmp_path) if path.is_file()]) == 8


@pytest.mark.parametrize('kind', ['folder', 'file', 'same'])
def test_nothing_is_written_over(tmp_path, folder, config, params, kind):
  target = folder if kind == 'same' else tmp_path / 'taken'
  if kind == 'folder':
    target.mkdir()
    (target / 'mine').touch()
  elif kind == 'file':
    target.touch()

  def contents():
    return {p: p.is_file() and p.read_bytes() for p in below(tmp_path)}

  before = contents()
  is_refused(lambda: save_folder(target, config, params, info={}), 'exists')
  is_refused(lambda: save_tensors(target, {}), 'exists')
  assert contents() == before


def test_places_that_cannot_be_written(tmp_path, config, params, monkeypatch):
  def save(target):
    return lambda: save_folder(target, config, params, info={})

  (tmp_path / 'file').touch()
  is_refused(save(tmp_path / 'file' / 'net'), 'cannot be written', 'file')
  is_refused(save(tmp_path / 'file' / 'a' / 'net'), 'cannot be written')
  is_refused(save(tmp_path / ('x' * 300)), 'cannot be written', 'name too long')
  is_refused(save('gs://bucket/net'), 'gs://bucket/net is not on this machine')
  monkeypatch.setattr(os, 'access', lambda *args: False)
  is_refused(save(tmp_path / 'net'), f'{tmp_path} is not a writable folder')
  assert below(tmp_path) == [tmp_path / 'file']


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left'),
                                   KeyboardInterrupt()])  # fmt: skip
@pytest.mark.parametrize('target', ['net', 'a/b/net'])
def test_a_failure_leaves_nothing(
  tmp_path, config, params, monkeypatch, error, target
):
  def fail(tensors, path, metadata):
    path.write_bytes(b'half of it')
    raise error

  monkeypatch.setattr(weights, 'save_file', fail)
  expected = WriteError if isinstance(error, OSError) else KeyboardInterrupt
  with pytest.raises(expected):
    save_folder(tmp_path / target, config, params, info={})
  with pytest.raises(expected):
    save_tensors(tmp_path / f'{target}.safetensors', {'a': np.ones(3)})
  assert not below(tmp_path)


def test_one_file(tmp_path):
  tensors = {'a.weight': np.arange(6.0).reshape(2, 3).T, 'b': np.float32(3)}
  path = tmp_path / 'x.safetensors'
  save_tensors(path, tensors, family='ig_sit')
  loaded = load_file(path)
  assert loaded.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(loaded[name], tensor)
    assert loaded[name].shape == tensor.shape
  assert b'"format":"pt"' in path.read_bytes()
  objects = {'a': np.asarray([{}], object)}
  other = tmp_path / 'y.safetensors'
  is_refused(lambda: save_tensors(other, objects), 'object')
  assert below(tmp_path) == [path]


def test_parameters_of_another_network_are_not_saved(tmp_path, config, params):
  def save(**changes):
    other = dataclasses.replace(config, **changes)
    return lambda: save_folder(tmp_path / 'net', other, params, info={})

  is_refused(save(depth=6), 'blocks/', 'shape (5,', 'expected (6,')
  is_refused(save(taps=()), 'has unknown tap_heads/')
  is_refused(save(qk_norm='layernorm'), 'lacks blocks/attention/k_norm/')
  assert not below(tmp_path)


def test_folder_that_is_none(tmp_path, folder):
  refused(tmp_path / 'no', 'not a folder of weights')
  refused(tmp_path, 'config.json')
  refused(folder / 'config.json', 'not a folder of weights')
  refused('gs://bucket/net', 'not on this machine')
  (folder / 'model.safetensors').unlink()
  refused(folder, 'holds no model.safetensors')


@pytest.mark.parametrize('text', ['', '{"format": 1, "mod', 'null', '[1]',
                                  '{}', '[' * 10000, '\x00', '"é'])  # fmt: skip
def test_damaged_config(folder, text):
  (folder / 'config.json').write_bytes(text.encode('latin-1'))
  refused(folder, folder / 'config.json')


@pytest.mark.parametrize('name, value, words', [
  ('depht', 5, ['unknown field model.depht', "mean 'depth'"]),
  ('depth', '5', ["model.depth is '5'", 'expected an integer']),
  ('depth', 5.0, ['model.depth is 5.0', 'expected an integer']),
  ('depth', True, ['model.depth is True', 'expected an integer']),
  ('depth', None, ['model.depth is None']),
  ('depth', [5], ['model.depth is (5,)']),
  ('depth', 0, ['model.depth is 0']),
  ('depth', 4, ['blocks/', 'expected (4,']),
  ('mlp_ratio', 'four', ["model.mlp_ratio is 'four'", 'expected a number']),
  ('mlp_ratio', float('nan'), ['mlp_ratio is nan']),
  ('mlp_ratio', 2, ['blocks/mlp/', 'expected']),
  ('taps', 2, ['model.taps is 2', 'values, such as (1, 2)']),
  ('taps', ['2'], ["model.taps has '2'", 'an integer']),
  ('taps', [2], ['tap_heads/', 'expected (1,']),
  ('taps', [9], ['taps has 9']),
  ('scan', 1, ['model.scan is 1', 'expected true or false']),
  ('qk_norm', 'layer', ["'layer'", "Did you mean 'layernorm'"]),
  ('num_heads', 3, ['num_heads 3']),
  ('size', 16, ['position', 'expected (64, 32)']),
  ('size', 10**9, ['model.size is 1000000000', 'from 1 to 16,384']),
  ('size', 4096, ['fewer values than']),
  ('param_dtype', 'bfloat16', []),
])  # fmt: skip
def test_wrong_values_in_a_config(folder, name, value, words):
  edit(folder, lambda about: about['model'].update({name: value}))
  if words:
    refused(folder, folder, *words)
  else:  # A bfloat16 network may have float32 weights.
    load_folder(folder)


def test_missing_fields_in_a_config(folder, config):
  # Older versions did not write the field `remat`.
  edit(folder, lambda about: about['model'].pop('remat'))
  assert load_folder(folder)[0] == config
  edit(folder, lambda about: about['model'].pop('depth'))
  refused(folder, 'lacks the field model.depth')
  edit(folder, lambda about: about.update(model=3))
  refused(folder, 'no section "model"')
  edit(folder, lambda about: about.update(format=2))
  refused(folder, '"format": 1', 'another version')


def test_wrong_arrays(folder, params):
  old, words = params['label_embed'], [folder / 'model.safetensors']
  rewrite(folder, lambda arrays: arrays.pop('label_embed'))
  refused(folder, 'lacks', 'label_embed', *words)
  for array, *own in (
    (old[:-1], '(10, 32)', '(11, 32)'),
    (old.astype(np.float64), 'float64', 'float32'),
    (old.astype(np.int32), 'int32'),
  ):
    rewrite(folder, lambda arrays, new=array: arrays.update(label_embed=new))
    refused(folder, 'label_embed', *own, *words)
  rewrite(folder, lambda arrays: arrays.update(label_embed=old))
  load_folder(folder)
  rewrite(folder, lambda arrays: arrays.update(extra=np.ones(3)))
  refused(folder, 'has unknown extra')


def test_damaged_arrays(folder):
  path = folder / 'model.safetensors'
  data = path.read_bytes()
  for length in (0, 7, 100, len(data) // 2, len(data) - 1):
    path.write_bytes(data[:length])
    refused(folder, path, 'cannot be read')
