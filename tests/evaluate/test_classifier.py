import functools
import json
import os

import jax
import numpy as np
import pytest
from command_runs import change_json
from refusals import is_refused
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

from core.errors import InputError, WriteError
from evaluate import classifier as lib
from evaluate.frechet import Moments, extrapolated, frechet_distance

ABOUT = {'data': 'textures', 'held_out_accuracy': 1.0}


def textures(count, seed, shape=(32, 32, 3)):
  """Returns noisy images (stripes, a checkerboard or one shade) and labels."""
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % 4
  y, x = np.mgrid[: shape[0], : shape[1]] // 2
  patterns = np.stack([y, x, x + y, 0 * x]) % 2
  images = rng.integers(0, 100, (count, *shape))
  images += 150 * patterns[labels][..., None]
  return images.astype(np.uint8), labels


@pytest.fixture(scope='module')
def trained():
  return train(steps=1)


def train(steps):
  return lib.train_classifier(
    *textures(80, 0), 4, steps=steps, batch_size=16, flip=True
  )


@pytest.fixture
def folder(trained, tmp_path):
  trained.save(tmp_path / 'features', ABOUT)
  return tmp_path / 'features'


@pytest.mark.slow
@pytest.mark.usefixtures('good_compilation')
def test_digits():
  """Trains the feature classifier that the tables in docs/ use."""
  images, labels = load_digits(return_X_y=True)
  images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
  order = np.random.default_rng(0).permutation(1797)  # order of the dataset
  train, test = order[:-500], order[-500:]
  classifier = lib.train_classifier(images[train], labels[train], 10)
  features, predictions = classifier(images[test])
  assert features.shape == (500, lib.FEATURES)
  assert (predictions == labels[test]).mean() >= 0.97
  shapes = [leaf.shape for leaf in jax.tree.leaves(classifier.params)]
  assert sum(map(np.prod, shapes)) == 72_842
  assert lib.recipe((8, 8, 1)) == (300, 128)
  # The distance between two halves of the real digits is only bias.
  features, _ = classifier(images[train])
  halves = features[::2], features[1::2]
  reference = Moments.of(halves[1])
  distance = frechet_distance(Moments.of(halves[0]), reference)
  found = extrapolated(halves[0], reference)
  # Half of the bias in `distance` is due to halves[0]. `extrapolated` removes
  # this half, so the removed part and the rest, `found`, must be about equal.
  assert abs(found - (distance - found)) < 0.3
  noise = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 1), np.uint8)
  assert extrapolated(classifier(noise)[0], Moments.of(features)) > 20


@pytest.mark.slow
@pytest.mark.usefixtures('good_compilation')
def test_textures_are_learned():
  images, labels = textures(40, 1)
  features, predictions = train(steps=25)(images)
  assert (predictions == labels).mean() > 0.9
  assert features.shape == (40, 2 * lib.FEATURES)
  np.testing.assert_allclose(np.square(features).mean(1), 1, rtol=1e-3)


@pytest.mark.parametrize(('shape', 'last'), [
  ((8, 8, 1), (2, 2, 64)),
  ((9, 9, 3), (3, 3, 256)),
  ((28, 28, 1), (4, 4, 84)),
  ((32, 16, 3), (4, 2, 256)),
  ((64, 64, 3), (4, 4, 256)),
  ((256, 256, 3), (4, 4, 256)),
])  # fmt: skip
def test_any_shape(shape, last):
  graph, params = lib._abstract(shape, 5)
  assert params['hidden']['kernel'].shape[0] == np.prod(last)
  apply = functools.partial(lib._apply, graph)
  images = jax.ShapeDtypeStruct((2, *shape), np.uint8)
  features, logits = jax.eval_shape(apply, params, images)
  assert features.shape == (2, 64 if shape[0] == 8 else 128)
  assert logits.shape == (2, 5)


@pytest.mark.slow
def test_batches_do_not_change_features(trained, monkeypatch):
  images, _ = textures(23, 2)
  features, predictions = trained(images)
  monkeypatch.setattr(lib, '_BATCH_VALUES', 10 * images[0].size)
  in_batches = trained(images)
  np.testing.assert_allclose(in_batches[0], features, atol=1e-4)
  np.testing.assert_array_equal(in_batches[1], predictions)


@pytest.mark.slow
def test_seed_fixes_the_weights():
  train = functools.partial(
    lib.train_classifier, *textures(8, 0, (8, 8, 1)), 4, batch_size=4
  )
  seen = []
  first = train(
    steps=2, seed=1, progress=lambda done, loss: seen.append((done, loss.shape))
  )
  assert seen == [(1, ()), (2, ())]
  assert train(steps=2, seed=1).fingerprint == first.fingerprint
  assert train(steps=2, seed=2).fingerprint != first.fingerprint
  assert train(steps=2, seed=1, flip=True).fingerprint != first.fingerprint


def test_folder_gives_the_same_features(trained, folder):
  again, about = lib.load(folder)
  assert about == ABOUT
  assert again.fingerprint == trained.fingerprint
  images, _ = textures(6, 3)
  for ours, theirs in zip(trained(images), again(images), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert sorted(os.listdir(folder.parent)) == ['features']
  config = json.loads((folder / 'config.json').read_text())
  assert config['shape'] == [32, 32, 3] and config['features'] == 128


def test_layers_keep_their_order(tmp_path):
  """Layers stay in numeric order. Layer 2 is before layer 10."""
  shape = (256, 256, 3)
  _, shapes = lib._abstract(shape, 2)
  assert len(shapes['convs']) == 11
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  wide = lib.Classifier(shape, 2, params)
  wide.save(tmp_path / 'wide', {})
  images, _ = textures(1, 0, shape)
  again, _ = lib.load(tmp_path / 'wide')
  np.testing.assert_array_equal(again(images)[0], wide(images)[0])


def test_other_shapes_are_refused(trained):
  with pytest.raises(InputError, match=r'shape \(16, 16, 3\).*\(32, 32, 3\)'):
    trained(np.zeros((1, 16, 16, 3), np.uint8))


def test_taken_folder_is_kept(trained, folder):
  before = (folder / 'config.json').read_bytes()
  with pytest.raises(InputError, match='exists'):
    trained.save(folder, {})
  assert (folder / 'config.json').read_bytes() == before


def test_failed_write_leaves_nothing(trained, tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(lib, 'write_json', full)
  with pytest.raises(WriteError, match='No space left'):
    trained.save(tmp_path / 'features', ABOUT)
  assert not os.listdir(tmp_path)


def change(folder, **values):
  change_json(folder / 'config.json', lambda config: config.update(values))


def change_weights(folder, function):
  path = folder / 'weights.safetensors'
  arrays = load_file(path)
  function(arrays)
  save_file(arrays, path)


@pytest.mark.parametrize(('damage', 'message'), [
  (lambda f: (f / 'config.json').unlink(), 'holds no classifier'),
  (lambda f: (f / 'config.json').write_text('{'), 'damaged'),
  (lambda f: (f / 'config.json').write_text('[]'), 'damaged'),
  (lambda f: (f / 'config.json').write_text('{"a": 1}'), 'damaged'),
  (lambda f: change(f, format=2), 'format 2'),
  (lambda f: change(f, about=3), 'damaged'),
  (lambda f: change(f, shape=[32, 32]), 'damaged'),
  (lambda f: change(f, shape=[32, -1, 3]), 'damaged'),
  (lambda f: change(f, shape=['a', 32, 3]), 'damaged'),
  (lambda f: change(f, num_classes=None), 'damaged'),
  (lambda f: change(f, num_classes=7), 'does not hold the arrays'),
  (lambda f: change(f, shape=[10**9, 32, 3]), 'damaged'),
  (lambda f: (f / 'weights.safetensors').unlink(), 'cannot be read'),
  (lambda f: (f / 'weights.safetensors').write_bytes(b'short'),
   'cannot be read'),
  (lambda f: change_weights(f, lambda a: a.pop('logits/bias')),
   'does not hold'),
  (lambda f: change_weights(f, lambda a: a['logits/bias'].fill(1)), 'SHA-256'),
])  # fmt: skip
def test_damaged_folder(folder, damage, message):
  damage(folder)
  is_refused(lambda: lib.load(folder), message)


def test_only_the_first_process_writes(trained, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  trained.save(tmp_path / 'features', ABOUT)
  assert not os.listdir(tmp_path)
