import os
import stat

import numpy as np
import pytest
import reference
from refusals import refused

from commands.convert import PublishedFacts, exchange
from core.errors import InputError
from dit.weights import convert, files, folder

IG_SIT = {'family': 'ig_sit', 'facts': PublishedFacts(4, (2,))}


@pytest.fixture
def golden():
  return reference.find('ig_sit/model.safetensors')


@pytest.mark.parametrize('text', ['[' * 100_000, '1' * 5000, '{"a": NaN', ''])
def test_config_that_is_no_json(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  with refused('config.json'):
    exchange(str(tmp_path), f'{tmp_path}/x.safetensors')


@pytest.mark.parametrize(
  'source', ['http://x/y.pt', 'foo://x', '~nobodyofthisname/x.pt']
)
def test_source_of_unknown_kind(tmp_path, source):
  with refused():
    exchange(source, str(tmp_path / 'x'), **IG_SIT)


@pytest.mark.parametrize('name', ['n' * 250, 'n' * 300, 'm' * 238 + '/net'])
@pytest.mark.parametrize('suffix', ['', '.safetensors'])
def test_long_names(tmp_path, golden, name, suffix):
  target = tmp_path / (name + suffix)
  try:
    exchange(str(golden), str(target), **IG_SIT)
  except InputError as error:
    assert '\n' not in str(error)
    assert not os.listdir(tmp_path)
  else:
    assert target.exists()
  assert not [*tmp_path.rglob('.*')]


def test_targets_that_are_links(tmp_path, golden):
  loop, dangling = tmp_path / 'loop', tmp_path / 'dangling.safetensors'
  loop.symlink_to(loop)
  dangling.symlink_to(tmp_path / 'nothing')
  for target in (loop, loop / 'x' / 'y', dangling):
    with refused():
      exchange(str(golden), str(target), **IG_SIT)
  assert dangling.is_symlink() and not (tmp_path / 'nothing').exists()


def test_file_that_came_meanwhile_stays(tmp_path, monkeypatch):
  path = tmp_path / 'x.safetensors'
  write = folder._write

  def slow(partial, *args):
    write(partial, *args)
    path.write_text('of someone else')

  monkeypatch.setattr(folder, '_write', slow)
  with refused('exists; choose another name'):
    folder.save_tensors(path, {'a': np.zeros(3, np.float32)})
  assert path.read_text() == 'of someone else'
  assert [*tmp_path.iterdir()] == [path]


def test_weights_can_be_read_by_others(tmp_path, golden):
  before = os.umask(0o022)
  try:
    exchange(str(golden), str(tmp_path / 'net'), **IG_SIT)
    exchange(str(tmp_path / 'net'), str(tmp_path / 'x.safetensors'))
  finally:
    os.umask(before)
  for path in (tmp_path / 'net/model.safetensors', tmp_path / 'x.safetensors'):
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_tensor_larger_than_its_file(tmp_path):
  torch = pytest.importorskip('torch', reason='needs torch')
  bomb = torch.zeros(1).expand(400_000, 400_000)
  torch.save({'x_embedder.proj.weight': bomb}, tmp_path / 'bomb.pt')
  with refused('larger than'):
    files.read_tensors(tmp_path / 'bomb.pt')


def test_one_huge_tensor_asks_for_no_memory(golden):
  tensors = dict(files.read_safetensors(golden))
  huge = np.broadcast_to(np.float32(0), (4_000_000, 4, 2, 2))
  tensors['x_embedder.proj.weight'] = huge
  with refused('has shape', 'expected'):
    convert.from_published(tensors, family='ig_sit', num_heads=4, taps=(2,))
