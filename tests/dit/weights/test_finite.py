import json
import pathlib
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from published_tensors import edit_config
from refusals import refused
from safetensors.numpy import load_file, save_file

from commands.convert import PublishedFacts, exchange
from core.errors import InputError
from core.files import file_sha256
from dit.autoencoder.files import read_autoencoder
from dit.weights import folder
from dit.weights.files import read_tensors
from dit.weights.finite import check_finite

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden/ig_sit/model.safetensors'
IG_SIT = {'family': 'ig_sit', 'facts': PublishedFacts(4, (2,))}
NAME = 'blocks.0.attn.qkv.weight'


def damaged(path, value=np.nan, dtype=np.float32):
  tensors = load_file(GOLDEN)
  tensor = tensors[NAME].astype(dtype)
  tensor.flat[:3] = value
  save_file({**tensors, NAME: tensor}, path)
  return path


@pytest.mark.parametrize(('value', 'dtype'), [
  (np.nan, np.float32), (np.inf, np.float16), (-np.inf, np.float32),
  (1e39, np.float64), (np.nan, jnp.bfloat16),
])  # fmt: skip
def test_the_first_tensor_that_is_not_finite_is_named(tmp_path, value, dtype):
  path = damaged(tmp_path / 'bad.safetensors', value, dtype)
  size = load_file(GOLDEN)[NAME].size
  words = f'{path}: tensor {NAME!r} has 3 of {size:,} values'
  with warnings.catch_warnings(action='error'):
    with refused(words, '--allow_nonfinite'):
      read_tensors(path)
  with pytest.raises(InputError, match='not finite'):
    exchange(str(path), str(tmp_path / 'net'), **IG_SIT)
  assert not (tmp_path / 'net').exists()


def test_pickles_are_checked_too(tmp_path):
  torch = pytest.importorskip('torch')
  value = torch.tensor([1.0, 1e39], dtype=torch.float64)
  torch.save({'weight': value}, tmp_path / 'bad.pt')
  with pytest.raises(InputError, match="'weight' has 1 of 2 values"):
    read_tensors(tmp_path / 'bad.pt')


def test_for_study_they_are_converted_and_then_read(tmp_path):
  path = damaged(tmp_path / 'bad.safetensors')
  exchange(str(path), str(tmp_path / 'net'), **IG_SIT, allow_nonfinite=True)
  _, params, info = folder.load_folder(tmp_path / 'net')
  assert info['allow_nonfinite'] is True
  assert np.isnan(params['blocks']['attention']['qkv']['kernel']).sum() == 3
  # `load_folder` must refuse a config.json without "allow_nonfinite".
  edit_config(tmp_path / 'net', allow_nonfinite=None)
  with pytest.raises(InputError, match='attention/qkv/kernel'):
    folder.load_folder(tmp_path / 'net')
  back = tmp_path / 'back.safetensors'
  exchange(str(tmp_path / 'net'), str(back), allow_nonfinite=True)
  with pytest.raises(InputError, match='3 of'):
    read_tensors(back)


def test_finite_weights_need_no_mark(tmp_path):
  exchange(str(GOLDEN), str(tmp_path / 'net'), **IG_SIT, allow_nonfinite=True)
  about = json.loads((tmp_path / 'net' / 'config.json').read_text())
  assert 'allow_nonfinite' not in about


def test_quantized_folders_are_checked(tmp_path):
  exchange(str(GOLDEN), str(tmp_path / 'net'), **IG_SIT)
  exchange(str(tmp_path / 'net'), str(tmp_path / 'small'), quantize='int8')
  path = tmp_path / 'small' / 'model.safetensors'
  arrays = load_file(path)
  arrays['blocks/attention/qkv/kernel.scale'].flat[0] = np.inf
  save_file(arrays, path)
  edit_config(tmp_path / 'small', sha256=file_sha256(path))
  with pytest.raises(InputError, match='attention/qkv/kernel'):
    folder.load_folder(tmp_path / 'small')


def test_values_too_large_for_bfloat16_are_not_quantized(tmp_path):
  exchange(str(GOLDEN), str(tmp_path / 'net'), **IG_SIT)
  config, params, _ = folder.load_folder(tmp_path / 'net')
  params['label_embed'].flat[0] = 3.4e38
  small = tmp_path / 'small'
  with pytest.raises(InputError, match='label_embed'):
    folder.save_folder(small, config, params, info={}, scheme='int4')
  assert not small.exists()


def test_arrays_on_devices_and_integers():
  tree = {'a': jnp.ones(3), 'b': {'c': np.arange(3), 'd': np.ones(2)}}
  assert check_finite('here', tree, advice='stop') == 0
  tree['a'] = jnp.asarray([1, jnp.inf, jnp.nan])
  tree['b']['d'] = np.asarray([np.nan])
  with pytest.raises(InputError) as error:
    check_finite('here', tree, advice='stop')
  assert str(error.value) == (
    "here: tensor 'a' has 2 of 3 values that are not finite in float32 (and 1 "
    'more); stop.'
  )
  assert check_finite('here', tree, advice='stop', allow=True) == 2


def test_autoencoders_are_checked(tmp_path):
  tensors = {'1.weight': np.full((4, 4, 3, 3), np.inf, np.float32)}
  save_file(tensors, tmp_path / 'bad.safetensors')
  with pytest.raises(InputError, match=r"'1.weight' has 144 of 144"):
    read_autoencoder(f'taesd:{tmp_path}/bad.safetensors', None, 'decoder')
