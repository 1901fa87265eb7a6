"""Tests training on prepared pixels and on normalized prepared latents."""

import json
import types

import jax
import numpy as np
import pytest
from command_runs import TINY, refusal, succeed
from networks import Doubled
from PIL import Image

from core.errors import InputError
from dit.latents import LatentSpace
from dit.sharding import MeshConfig, make_mesh
from input_pipeline.batches import batches
from input_pipeline.image_files import open_images
from input_pipeline.prepare import PrepareConfig, layout_of, prepare
from input_pipeline.sources import (
  DataConfig,
  check_source,
  latent_space_of,
  normalization_of,
  open_source,
)
from sample.decoder import read_decoder
from train import state
from train.optimizer import make_optimizer, make_schedule
from train.step import make_train_step

COUNT = 32


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  folder = tmp_path_factory.mktemp('images')
  rng = np.random.default_rng(0)
  for i in range(COUNT):
    values = rng.integers(100, size=(8, 8, 3)) + 18 * np.arange(8)[:, None]
    (folder / 'ab'[i % 2]).mkdir(exist_ok=True)
    Image.fromarray(np.uint8(values)).save(folder / 'ab'[i % 2] / f'{i}.png')
  return folder


def write_moments(images, folder, flip):
  config = PrepareConfig(8, 'float32', 8, 100, 1, 0)
  layout = layout_of(config, Doubled(), flip)
  about = {'autoencoder': {'name': 'taef2', 'encoder_sha256': 'abc'}}
  prepare(open_images(str(images), ''), Doubled(), config, layout,
          folder / 'moments' / 'train', about=about)  # fmt: skip


@pytest.fixture(scope='module')
def data(images, tmp_path_factory):
  """A folder with the dataset 'moments', which also has mirrored images."""
  folder = tmp_path_factory.mktemp('data')
  write_moments(images, folder, flip=True)
  return folder


def settings(data, **changes):
  given = {'autoencoder': 'taef2', **changes}
  return DataConfig('moments', str(data), 'train', '', 1, 2, **given)


def first_batch(config):
  source, mesh = open_source(config, 'train'), make_mesh(MeshConfig())
  stream = batches(source, config, mesh, batch_size=COUNT, seed=0, start=0)
  return jax.device_get(next(stream))


def brighter_right(batch):
  """Returns whether each image is unmirrored: brighter on the right side."""
  mean = batch['moments'][..., :3].mean((1, 3))
  return mean[:, 4:].mean(1) > mean[:, :4].mean(1)


def test_batches_of_moments(data):
  batch = first_batch(settings(data))
  assert batch['moments'].shape == (COUNT, 8, 8, 6)
  assert sorted(batch['label']) == [0] * 16 + [1] * 16
  assert brighter_right(batch).all()


def test_half_are_mirrored(data):
  there, back = (first_batch(settings(data, flip=f)) for f in (False, True))
  np.testing.assert_array_equal(there['label'], back['label'])
  kept = brighter_right(back)
  assert 6 <= kept.sum() <= COUNT - 6
  means = [batch['moments'][..., :3] for batch in (there, back)]
  mirrored = np.where(kept[:, None, None, None], means[0], means[0][:, :, ::-1])
  np.testing.assert_array_equal(mirrored, means[1])


@pytest.mark.parametrize('statistics', ['autoencoder', 'data'])
def test_normalization(data, statistics):
  config = settings(data, statistics=statistics)
  source = open_source(config, 'train')
  found = normalization_of(source, config)
  if statistics == 'autoencoder':
    assert found == Doubled.normalization
  else:
    z = np.stack([record['moments'][0, ..., :3] for record in source])
    np.testing.assert_allclose(found.mean, z.mean((0, 1, 2)), rtol=1e-5)
    std = np.sqrt(z.var((0, 1, 2)) + 0.25)
    np.testing.assert_allclose(found.std, std, rtol=1e-5)
  space = latent_space_of(source, config)
  assert space.autoencoder == 'taef2' and space.encoder_sha256 == 'abc'
  assert space.normalization == found


@pytest.mark.slow
def test_the_step_draws_and_normalizes(data, make_experiment, monkeypatch):
  """The objective gets normalized latents, resampled in every step."""
  experiment = make_experiment(
    'model.channels=3', 'model.depth=2', 'model.taps=(1,)'
  )
  config = settings(data, statistics='data')
  source = open_source(config, 'train')
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  rule = experiment.optimizer
  schedule = make_schedule(rule, batch_size=COUNT, total_images=COUNT)
  optimizer = make_optimizer(rule, schedule)
  seen = []

  def spy(denoiser, config, taps, x0, noise, t, label, **rest):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), x0)
    return denoiser(x0, x0[:, 0, 0, 0] * 0, label).velocity.mean(), {}

  monkeypatch.setattr('train.objective.loss_at', spy)
  with jax.set_mesh(mesh):
    abstract = state.abstract(experiment.model, optimizer, mesh)
    step = make_train_step(
      experiment.model, experiment.objective, optimizer, experiment.ema,
      abstract, normalization_of(source, config),
    )  # fmt: skip
    current = state.init(experiment.model, optimizer, mesh, seed=0)
    stream = batches(source, config, mesh, batch_size=COUNT, seed=0, start=0)
    batch = next(stream)
    for _ in range(2):
      current, _ = step(current, batch, jax.random.key(0))
    jax.effects_barrier()
  assert len(seen) == 2
  for x in seen:
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=0.05)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=0.05)
  found = normalization_of(source, config)
  expected = np.sqrt(2) * 0.5 / np.asarray(found.std)
  difference = (seen[1] - seen[0]).std((0, 1, 2))
  np.testing.assert_allclose(difference, expected, rtol=0.1)


@pytest.mark.parametrize('model, changes, message', [
  ([], {'autoencoder': 'sd_vae'}, 'made with autoencoder taef2'),
  (['model.channels=1'], {}, r'shape \(8, 8, 3\)'),
  (['model.size=16'], {}, r'shape \(8, 8, 3\)'),
  (['model.num_classes=1'], {}, 'has 2 classes'),
])  # fmt: skip
def test_records_must_fit(data, make_experiment, model, changes, message):
  network = make_experiment('model.channels=3', *model).model
  config = settings(data, **changes)
  with pytest.raises(InputError, match=message):
    check_source(open_source(config, 'train'), config, network)


def test_flip_needs_mirrored_records(images, tmp_path, make_experiment):
  network = make_experiment('model.channels=3').model
  write_moments(images, tmp_path, flip=False)
  config = settings(tmp_path, flip=True)
  with pytest.raises(InputError, match='no mirrored images'):
    check_source(open_source(config, 'train'), config, network)


def test_another_decoder_is_refused(monkeypatch):
  decoder = types.SimpleNamespace(latent_channels=3, params={'decoder': {}})
  monkeypatch.setattr('sample.decoder.read_autoencoder', lambda *_: decoder)

  space = LatentSpace('taef2', 'abc')
  with pytest.raises(InputError, match='trained on latents of taef2'):
    read_decoder('sd_vae:file', 3, space, None)
  decoder.params['encoder'] = {'w': np.ones(2)}
  with pytest.raises(InputError, match='not that of the latents'):
    read_decoder('taef2:file', 3, space, None)


@pytest.mark.slow
def test_the_commands(images, tmp_path):
  place = ['--config.data.name=photos', f'--config.data.dir={tmp_path}/data']
  words = ['prepare', f'--images={images}', *place]
  words += ['--image_size=8', '--batch_size=8']
  assert '32 records in 1 files, 0 broken' in succeed(*words).out
  assert 'are whole' in succeed(*words, '--verify').out
  changes = TINY | {
    'model.channels': 3, 'train.images': 32, 'data.test_split': '',
    'data.flip': 'true', 'log.preview_every_images': 0,
  }  # fmt: skip
  changes = [f'--config.{key}={value}' for key, value in changes.items()]
  workdir = f'--workdir={tmp_path}/run'
  succeed('train', '--config=configs/digits.py', workdir, *changes, *place)
  about = json.loads((tmp_path / 'run' / 'latents.json').read_text())
  assert about['autoencoder']['name'] == 'pixels'
  succeed('sample', workdir, '--num=8', '--config.sample.steps=2')


@pytest.mark.parametrize('words, message', [
  ([], '--images is needed'),
  (['--images=nowhere'], 'neither a folder'),
  (['--images={images}', '--config.data.name=digits'], 'choose another name'),
  (['--images={images}', '--split=a/b'], 'without /'),
  (['--images={images}', '--image_size=0'], 'image_size is 0'),
  (['--images={images}', '--dtype=int8'], 'float16, float32'),
  (['--images={images}', '--batch_size=3'], '8 devices'),
  (['--images={images}', '--config.data.autoencoder=taef2'], 'make them agr'),
  (
    ['--images={images}', '--config.data.autoencoder=sd_vae',
     '--autoencoder=taef2:a'],
    'make them agree',
  ),
  (['--verify'], 'cannot be read'),
])  # fmt: skip
def test_bad_input_of_prepare(images, tmp_path, words, message):
  words = [word.format(images=images) for word in words]
  said = refusal('prepare', '--config.data.name=photos',
                 f'--config.data.dir={tmp_path}', *words)  # fmt: skip
  assert message in said
  assert said.count('\n') <= 2 and 'Traceback' not in said
  assert not list(tmp_path.rglob('*.array_record'))
