"""Conversions between all weight formats keep every value exactly."""

import json
import sys

import jax
import numpy as np
import pytest
import reference
from command_runs import contents
from refusals import is_refused
from safetensors.numpy import load_file, save_file

from commands import convert as convert_command
from commands.convert import PublishedFacts
from commands.convert import exchange as convert
from dit.sharding import MeshConfig, make_mesh
from dit.weights.folder import load_folder
from dit.weights.quantize import SCHEMES
from dit.weights.restore import restore_weights
from train import workdir

GOLDEN = reference.HERE / 'golden' / 'ig_sit' / 'model.safetensors'
IG_SIT = {'family': 'ig_sit', 'facts': PublishedFacts(4, (2,))}
COUNT = sum(tensor.size for tensor in load_file(GOLDEN).values())


@pytest.fixture
def run(shared_run):
  return shared_run / 'run'


@pytest.fixture
def folder(tmp_path):
  convert(str(GOLDEN), str(tmp_path / 'net'), **IG_SIT)
  return tmp_path / 'net'


@pytest.fixture
def refused(tmp_path):

  def check(source, target, *words, **options):
    before = contents(tmp_path)
    is_refused(lambda: convert(str(source), str(target), **options), *words)
    assert contents(tmp_path) == before

  return check


def assert_same_file(path, expected):
  tensors, expected = load_file(path), load_file(expected)
  assert tensors.keys() == expected.keys()
  for name, tensor in tensors.items():
    assert tensor.dtype == expected[name].dtype
    assert tensor.shape == expected[name].shape
    assert tensor.tobytes() == expected[name].tobytes(), name


def test_published_to_folder_and_back(tmp_path, folder):
  config, _, info = load_folder(folder)
  assert (config.num_heads, config.taps, config.depth) == (4, (2,), 4)
  assert info == {'weights': 'as stored', 'source': str(GOLDEN),
                  'family': 'ig_sit'}  # fmt: skip
  report = convert(str(folder), str(tmp_path / 'back.safetensors'))
  assert_same_file(tmp_path / 'back.safetensors', GOLDEN)
  names = len(load_file(GOLDEN))
  assert f'{COUNT:,} parameters in {names} tensors' in report
  assert 'weights: as stored, family: ig_sit' in report
  assert report.startswith(f'{folder} -> {tmp_path}/back.safetensors')


def test_published_to_published(tmp_path):
  convert(str(GOLDEN), str(tmp_path / 'x.safetensors'), **IG_SIT)
  assert_same_file(tmp_path / 'x.safetensors', GOLDEN)


@pytest.mark.parametrize('name, family, taps', [
  ('dit/model', 'dit', None),
  ('sit_upstream/model', 'sit', None),
  ('sit_upstream/model_nosigma', 'sit', None),
  ('ig_sit/model_qknorm', 'ig_sit', (2,)),
  ('ig_lightningdit/model', 'ig_lightningdit', (2,)),
  ('ig_lightningdit/model_qknorm_woshift', 'ig_lightningdit', (2,)),
])  # fmt: skip
def test_every_family_there_and_back(tmp_path, name, family, taps):
  source = reference.find(f'{name}.safetensors')
  convert(str(source), str(tmp_path / 'net'), family=family,
          facts=PublishedFacts(4, taps or ()))  # fmt: skip
  convert(str(tmp_path / 'net'), str(tmp_path / 'x.safetensors'))
  assert_same_file(tmp_path / 'x.safetensors', source)


def test_pickle_to_folder(tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  ema = {name: torch.tensor(a) for name, a in load_file(GOLDEN).items()}
  raw = {f'module.{name}': tensor + 1 for name, tensor in ema.items()}
  source = tmp_path / 'x.pt'
  torch.save({'ema': ema, 'model': raw, 'opt': {}, 'epoch': 3}, source)
  report = convert(str(source), str(tmp_path / 'ema.safetensors'), **IG_SIT)
  assert 'weights: ema' in report
  assert_same_file(tmp_path / 'ema.safetensors', GOLDEN)
  convert(str(source), str(tmp_path / 'raw'), **IG_SIT, weights='raw')
  _, params, info = load_folder(tmp_path / 'raw')
  assert info['weights'] == 'raw'
  expected = load_file(GOLDEN)['y_embedder.embedding_table.weight'] + 1
  np.testing.assert_array_equal(params['label_embed'], expected)


@pytest.mark.parametrize('weights', [None, 'ema', 'raw'])
def test_run_to_folder(tmp_path, run, weights):
  report = convert(str(run), str(tmp_path / 'net'), weights=weights)
  config, params, info = load_folder(tmp_path / 'net')
  expected, step = restore_weights(
    run, config, make_mesh(MeshConfig()), weights or 'ema'
  )
  expected = jax.device_get(expected)
  assert jax.tree.structure(params) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {'float32'}
  latents = {'autoencoder': {'name': 'pixels', 'encoder_sha256': None},
             'decoder': None,
             'normalization': {'mean': [0.0], 'std': [1.0]},
             'classes': list(map(str, range(10)))}  # fmt: skip
  sample = dict(workdir.load_config(run)['sample'])
  del sample['batch_size']
  assert info == {'weights': weights or 'ema', 'source': str(run), 'step': step,
                  'path': 'linear', 'latents': latents,
                  'sample': sample}  # fmt: skip
  assert step == 30
  assert f'weights: {weights or "ema"}, family: none given' in report


@pytest.mark.parametrize('scheme', SCHEMES)
def test_published_to_quantized(tmp_path, folder, scheme):
  report = convert(str(GOLDEN), str(tmp_path / 'a'), **IG_SIT, quantize=scheme)
  convert(str(folder), str(tmp_path / 'b'), quantize=scheme)
  files = [tmp_path / name / 'model.safetensors' for name in 'ab']
  assert_same_file(*files)
  size = files[0].stat().st_size
  share = f'{size:,} bytes, {size / 4 / COUNT:.3f} of float32'
  assert report.endswith(f'family: ig_sit, {scheme}: {share}')
  assert load_folder(tmp_path / 'a')[2]['family'] == 'ig_sit'


def test_what_is_not_quantized(refused, tmp_path, folder):
  net, file = tmp_path / 'other', tmp_path / 'x.safetensors'
  refused(GOLDEN, net, "'int5'", 'int8, int6, int4', **IG_SIT, quantize='int5')
  refused(folder, file, 'no published format supports', quantize='int8')
  refused(GOLDEN, net, 'folder of weights, which', family='inception',
          quantize='int8')  # fmt: skip


def test_average_and_raw_weights_differ(tmp_path, run):
  for weights in ('ema', 'raw'):
    convert(str(run), str(tmp_path / weights), weights=weights)
  ema, raw = (load_folder(tmp_path / name)[1] for name in ('ema', 'raw'))
  assert (ema['head']['proj']['kernel'] != raw['head']['proj']['kernel']).any()


def test_run_to_published_and_back(tmp_path, run):
  file, net = tmp_path / 'x.safetensors', tmp_path / 'net'
  convert(str(run), str(file), family='ig_sit')
  convert(str(run), str(net))
  convert(str(file), str(tmp_path / 'back'), family='ig_sit',
          facts=PublishedFacts(2, (1,)))  # fmt: skip
  config, params, _ = load_folder(net)
  again, back, _ = load_folder(tmp_path / 'back')
  assert again == config
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_heads_of_named_widths_need_not_be_given(monkeypatch):
  """Only `_num_heads` is called, because networks of these widths are large."""
  heads = {384: 6, 768: 12, 1024: 16, 1152: 16}
  for width, expected in heads.items():
    kernel = np.broadcast_to(np.float32(0), (width, 4, 2, 2))
    tensors = {'x_embedder.proj.weight': kernel}
    assert convert_command._num_heads(tensors) == expected


def test_options_of_published_sources(refused, tmp_path):
  net = tmp_path / 'net'
  refused(GOLDEN, net, '--family is needed', 'ig_sit, repa, lightningdit')
  refused(GOLDEN, net, "'ig_sti'", "mean 'ig_sit'", family='ig_sti')
  refused(GOLDEN, net, '--taps is needed', '8 for L and XL, 4 for B',
          family='ig_sit', facts=PublishedFacts(4))  # fmt: skip
  refused(GOLDEN, net, '--num_heads is needed', 'width 64', '384, 768',
          family='ig_sit', facts=PublishedFacts(taps=(2,)))  # fmt: skip
  for word, *facts in (
    ('num_heads 5', 5, (2,)), ('num_heads is 0', 0, (2,)),
    ('taps has 4', 4, (4,)),
  ):  # fmt: skip
    refused(GOLDEN, net, word, family='ig_sit', facts=PublishedFacts(*facts))
  refused(GOLDEN, net, "'emma'", "mean 'ema'", **IG_SIT, weights='emma')
  refused(GOLDEN, net, 'final_layer_xr', family='sit', facts=PublishedFacts(4))


def test_options_of_other_sources(refused, tmp_path, folder, run):
  file = tmp_path / 'x.safetensors'
  words = ['--num_heads, --taps and --no_null_label are for published sources']
  refused(folder, file, *words, facts=PublishedFacts(4))
  refused(run, tmp_path / 'other', *words, facts=PublishedFacts(taps=(2,)))
  refused(run, file, '--family is needed')
  refused(run, file, 'no intermediate head', family='dit')
  refused(run, file, 'convention', family='ig_lightningdit')
  refused(folder, file, "holds weights 'as stored' only", weights='raw')
  refused(folder, file, 'no intermediate head', family='lightningdit')


def test_targets_that_make_no_sense(refused, tmp_path, folder):
  words = 'a .pt file is a pickle', 'Write .safetensors'
  refused(folder, tmp_path / 'x.pt', *words)
  refused(folder, tmp_path / 'x.npz', 'cannot be written', '.safetensors')
  refused(folder, tmp_path / 'other', 'is a folder of weights already')
  refused(GOLDEN, 'hf://org/name/x.safetensors', 'not on this machine')
  refused(GOLDEN, 'gs://bucket/net', 'not on this machine')


@pytest.mark.parametrize('kind', ['file', 'folder', 'same'])
def test_target_that_exists_is_found_before_any_work(
  refused, tmp_path, folder, monkeypatch, kind
):
  monkeypatch.setattr(convert_command, 'read_tensors', None)
  monkeypatch.setattr(convert_command, 'load_folder', None)
  target = folder if kind == 'folder' else tmp_path / 'taken.safetensors'
  if kind != 'folder':
    target.touch()
  source = target if kind == 'same' else GOLDEN
  refused(source, target, f'{target} exists', **IG_SIT)


def test_sources_that_are_none(refused, tmp_path, data_dir):
  target = tmp_path / 'net'
  refused(tmp_path / 'no', target, 'does not exist', 'workdir of a run')
  refused(tmp_path / 'no.pt', target, 'does not exist', **IG_SIT)
  refused(tmp_path, target, 'neither a folder of weights nor', 'config.json')
  (tmp_path / 'x.npz').touch()
  refused(tmp_path / 'x.npz', target, 'expected .safetensors', **IG_SIT)


def test_run_without_checkpoint(refused, tmp_path, make_config):
  workdir.claim(tmp_path / 'run', make_config())
  refused(tmp_path / 'run', tmp_path / 'net', 'no checkpoint', 'train first')


@pytest.mark.parametrize('content', [b'', b'\xff' * 50, b'\x05' + bytes(20)])
def test_damaged_published_file(refused, tmp_path, content):
  (tmp_path / 'x.safetensors').write_bytes(content)
  refused(tmp_path / 'x.safetensors', tmp_path / 'net', 'damaged', **IG_SIT)


def test_published_file_cut_short(refused, tmp_path):
  data = GOLDEN.read_bytes()
  for length in (7, 1000, len(data) // 2, len(data) - 1):
    (tmp_path / 'x.safetensors').write_bytes(data[:length])
    for target in ('net', 'y.safetensors'):
      refused(tmp_path / 'x.safetensors', tmp_path / target, 'truncated',
              **IG_SIT)  # fmt: skip


def test_tensors_that_do_not_fit(refused, tmp_path):
  source, target = tmp_path / 'x.safetensors', tmp_path / 'net'
  name = 'blocks.1.mlp.fc1.weight'
  tensors, extra = load_file(GOLDEN), {'extra': np.ones(3, np.float32)}
  right = tensors.pop(name)
  for word, wrong in (
    ('missing', {}), ('shape', {name: right[:-1]}),
    ('int32', {name: right.astype(np.int32)}),
  ):  # fmt: skip
    save_file(tensors | wrong, source)
    refused(source, target, name, word, **IG_SIT)
  save_file(load_file(GOLDEN) | extra, source)
  refused(source, target, 'extra', **IG_SIT)
  save_file(extra, source)
  refused(source, target, 'x_embedder.proj.weight', 'missing', family='dit')


def test_damaged_folder(refused, tmp_path, folder):
  target = tmp_path / 'x.safetensors'
  path = folder / 'config.json'
  about = json.loads(path.read_text())
  path.write_text(json.dumps({**about, 'family': 'ig_sti'}))
  refused(folder, target, "'ig_sti'", "mean 'ig_sit'")
  path.write_text(json.dumps({**about, 'family': None}))
  refused(folder, target, '--family is needed')
  for text in ('{"format": 1, "mo', '[]', '{"format": 1}'):
    path.write_text(text)
    refused(folder, target, 'is damaged')
  path.write_text(json.dumps(about))
  (folder / 'model.safetensors').unlink()
  refused(folder, target, 'holds no model.safetensors')
  path.unlink()
  refused(folder, target, 'holds no config.json')


def test_missing_extras(refused, tmp_path, monkeypatch):
  for name in ('torch', 'huggingface_hub'):
    monkeypatch.setitem(sys.modules, name, None)
  (tmp_path / 'x.pt').write_bytes(b'anything')
  refused(tmp_path / 'x.pt', tmp_path / 'net', 'pip install torch', **IG_SIT)
  refused('hf://org/name/x.pt', tmp_path / 'net', 'pip install hugg', **IG_SIT)
