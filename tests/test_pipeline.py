import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_runs import run

import sample
from core.errors import InputError
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from guidance import parse
from sample import interpolation, load, sampler, tile
from sample.generate import SampleConfig
from train.config_file import load_config

LABELS = [0, 1, 2, 3, 4, 5, 6, 7]
GUIDANCE = 'ig:1.5,cfg:1.2@0-0.7'
NOISE = np.ones((8, 8, 8, 1), np.float32)


@pytest.fixture(scope='module')
def pipeline(shared_run):
  return load(shared_run / 'run')


def by_command(tmp_path, *words):
  result = run('sample', *words, f'--out={tmp_path}', '--num=8', '--seed=3',
               '--config.sample.batch_size=8')  # fmt: skip
  assert result.status == 0, result.err
  with np.load(tmp_path / 'samples.npz') as stored:
    return stored['arr_0'].astype(int)


def test_images_are_those_of_the_command(
  pipeline, weights_folder, shared_run, tmp_path
):
  expected = by_command(
    tmp_path, f'--workdir={shared_run}/run', f'--guidance={GUIDANCE}'
  )
  ours = pipeline(LABELS, GUIDANCE, seed=3)
  assert ours.dtype == np.uint8
  # The command writes gray images with three equal channels.
  assert np.abs(np.broadcast_to(ours, expected.shape) - expected).max() <= 1
  of_folder = load(weights_folder)(LABELS, GUIDANCE, seed=3)
  np.testing.assert_array_equal(of_folder, ours)


def test_weights_and_steps(pipeline, shared_run):
  ema = pipeline(LABELS)
  raw = load(shared_run / 'run', weights='raw')(LABELS)
  before = load(shared_run / 'run', step=20)(LABELS)
  assert (raw != ema).any() and (before != ema).any()


def test_settings_of_the_sampler(pipeline):
  assert pipeline.sampling.steps == 3  # The run's config has 3 steps.
  assert pipeline.nfe() == 3
  assert pipeline.nfe('cfg:1.5', steps=10) == 20
  assert pipeline.nfe(solver='dopri5') is None
  more = pipeline(LABELS, steps=6)
  assert (more != pipeline(LABELS)).any()
  # An image does not depend on the number of other images.
  np.testing.assert_array_equal(pipeline(LABELS[:3], steps=6), more[:3])


def test_a_weaker_network_guides(pipeline, shared_run):
  guide = load(shared_run / 'run', step=20)
  guided = pipeline(LABELS, 'auto:2', guide=guide)
  assert (guided != pipeline(LABELS)).any()


def test_film(pipeline):
  found = pipeline.film(LABELS[:2], 'ig:1.5', frames=2)
  assert list(found.images) == ['state', 'strong', 'ig', 'refined', 'guided']
  assert found.images['ig'].shape == (2, 2, 8, 8, 1)


def test_tile(pipeline):
  sheet = tile(pipeline(LABELS), columns=4)
  assert sheet.shape == (2 * 12, 4 * 12, 1)


def test_defaults_are_those_of_the_config():
  section = load_config('configs/base.py').sample.to_dict()
  assert SampleConfig(**section) == SampleConfig()


@pytest.mark.parametrize(
  'labels', [[], [10], [-1], [0.5], [[1, 2]], [[1], [2, 3]], ['a'], 10, 0.5]
)
def test_labels_are_classes(pipeline, labels):
  with pytest.raises(InputError, match='between 0 and 9'):
    pipeline(labels)


def test_bad_words(pipeline, shared_run, weights_folder):
  sampler = dataclasses.replace(pipeline.sampler, path=path_named('vp'))
  vp = dataclasses.replace(pipeline, sampler=sampler)
  for call, message in (
    (lambda: pipeline(LABELS, 'igg:1.5'), "Did you mean 'ig'"),
    (lambda: pipeline(LABELS, 'auto:2'), 'needs a weaker network'),
    (lambda: pipeline(LABELS, None), 'expected text such as'),
    (lambda: pipeline(LABELS, step=5), "Did you mean 'steps'"),
    (lambda: pipeline(LABELS, guidance_scale=2), "use guidance='cfg:SCALE'"),
    (lambda: pipeline(LABELS, num_inference_steps=2), 'use steps'),
    (lambda: pipeline(LABELS, solver='ddpm'), '^solver ddpm needs'),
    (lambda: pipeline(LABELS, output='pil'), 'images, latents'),
    (lambda: pipeline(LABELS, noise=NOISE[:3]), 'noise has shape'),
    (lambda: pipeline(LABELS, noise=NOISE.astype(int)), 'floating point'),
    (lambda: pipeline(LABELS, solver='dopri5', callback=print), 'no callback'),
    (lambda: pipeline.invert(NOISE, LABELS, solver='ddim'), 'heun'),
    (lambda: pipeline.invert(NOISE, LABELS, 's2:2'), 'cannot be inverted'),
    (lambda: pipeline.invert(NOISE[:2], LABELS), 'images has shape'),
    (lambda: pipeline.interpolate([1, 2, 3]), 'one class or two'),
    (lambda: pipeline.interpolate(1, seeds=3), 'expected two'),
    (lambda: pipeline.interpolate(1, solver='euler_maruyama'), 'adds noise'),
    (lambda: pipeline.interpolate([1, 2], 'icg:2'), 'between two classes'),
    (lambda: pipeline.interpolate(1, count=1), 'from 2 to'),
    (lambda: vp.invert(NOISE, LABELS), 'infinite velocity'),
    (lambda: load(shared_run / 'run', dtype='half'), 'bfloat16'),
    (lambda: pipeline(LABELS, solver='eular'), "Did you mean 'euler'"),
    (lambda: pipeline(LABELS, steps='3'), 'expected an integer'),
    (lambda: pipeline(LABELS, steps=3.0), 'expected an integer'),
    (lambda: pipeline(LABELS, seed=-1), 'expected an integer'),
    (lambda: pipeline(LABELS, seed=1.5), 'expected an integer'),
    (lambda: pipeline(LABELS, guide=pipeline), 'is for guidance auto'),
    (lambda: pipeline(LABELS, 'auto:2', guide=vp), 'for the same task'),
    (lambda: pipeline.film(LABELS, 'ig:2', frames=0), 'from 1 to'),
    (lambda: pipeline.nfe('ig:2:tap=4'), 'needs tap 4'),
    (lambda: load(shared_run / 'run', weights='emma'), "Did you mean 'ema'"),
    (
      lambda: load(shared_run / 'run', weights='ema:0.1'),
      'main.py convert --from=.* --to=FOLDER --weights=ema:0.1',
    ),
    (lambda: load(shared_run / 'run', step=7), 'no checkpoint of step 7'),
    (lambda: load(shared_run / 'run', step='20'), "no checkpoint of step '20'"),
    (lambda: load(weights_folder, step=7), 'holds one set'),
    (lambda: load(shared_run / 'nowhere'), 'not the workdir of a run'),
    (lambda: load(shared_run / 'run', autoencoder='sdvae:x'), 'sd_vae'),
  ):
    with pytest.raises(InputError, match=message):
      call()


@pytest.mark.parametrize('damage', ['{', '[]', '{}', '{"model": {"name": 3}}'])
def test_what_is_no_run(tmp_path, damage):
  (tmp_path / 'config.json').write_text(damage)
  with pytest.raises(InputError):
    load(tmp_path)


def test_run_of_an_earlier_version(shared_run, tmp_path, pipeline):
  place = tmp_path / 'run'
  shutil.copytree(shared_run / 'run', place)
  config = json.loads((place / 'config.json').read_text())
  del config['model']['attention'], config['log']['wandb']
  (place / 'config.json').write_text(json.dumps(config))
  np.testing.assert_array_equal(load(place)(LABELS), pipeline(LABELS))
  assert run('sample', f'--workdir={place}', '--num=8').status == 0


def test_a_number_is_one_image(pipeline):
  assert pipeline(3).shape == (1, 8, 8, 1)
  np.testing.assert_array_equal(pipeline(3), pipeline([3]))
  np.testing.assert_array_equal(pipeline(np.int64(3)), pipeline('3'))


def test_noise_of_the_user(pipeline):
  noise = pipeline.noise(8, seed=3)
  assert noise.dtype == np.float32
  expected = pipeline(LABELS, GUIDANCE, seed=3)
  ours = pipeline(LABELS, GUIDANCE, noise=noise)
  np.testing.assert_array_equal(ours, expected)
  assert (pipeline(LABELS, GUIDANCE, noise=-noise) != expected).any()


def test_latents_are_the_images_before_rounding(pipeline):
  latents = pipeline(LABELS, output='latents')
  assert latents.dtype == np.float32
  pixels = np.clip(127.5 * latents + 127.5, 0, 255)
  assert np.abs(pixels - pipeline(LABELS)).max() < 0.51


@pytest.fixture
def alone(shared_run):
  """A pipeline on one device, where callbacks are ordered."""
  mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
  return load(shared_run / 'run', mesh=mesh)


def test_callback_and_progress(alone):
  seen, done = [], []
  images = alone(
    LABELS[:5],
    callback=lambda t, x: seen.append((t, x)),
    progress=done.append,
  )
  np.testing.assert_array_equal(images, alone(LABELS[:5]))
  times, states = zip(*seen, strict=True)
  np.testing.assert_allclose(times, alone.sampler.grid[:-1], rtol=1e-6)
  np.testing.assert_array_equal(states[0][:5], alone.noise(5))
  assert states[0].shape == (8, 8, 8, 1)  # five images and padding
  assert done == [5]


def test_callback_on_many_devices(pipeline):
  seen = []
  pipeline(LABELS, callback=lambda t, x: seen.append(t))
  assert sorted(seen, reverse=True) == pytest.approx(
    pipeline.sampler.grid[:-1].tolist()
  )


def test_counts_share_compiled_programs(pipeline):
  pipeline(list(range(10)) * 2)  # compiles for a batch of 32
  decode = pipeline.sampler.decode.func
  before = sampler.sample._cache_size(), decode._cache_size()
  pipeline(list(range(10)) * 3)
  assert pipeline.sampler.decode.func is decode
  assert (sampler.sample._cache_size(), decode._cache_size()) == before


def test_type_of_activations(shared_run):
  narrow = load(shared_run / 'run', dtype='bfloat16')
  assert narrow.denoiser.config.activation_dtype == 'bfloat16'
  ours, exact = narrow(LABELS).astype(int), load(shared_run / 'run')(LABELS)
  assert 0 < np.abs(ours - exact).max() < 40


@pytest.mark.parametrize('guidance', ['none', GUIDANCE])
def test_inversion_finds_the_noise(pipeline, guidance):
  options = {'solver': 'heun', 'steps': 60}
  images = pipeline(LABELS, guidance, seed=3, output='latents', **options)
  noise = pipeline.invert(images, LABELS, guidance, **options)
  assert np.abs(noise - pipeline.noise(8, seed=3)).max() < 0.05
  again = pipeline(LABELS, guidance, noise=noise, output='latents', **options)
  assert np.abs(again - images).max() < 0.02
  pixels = pipeline(LABELS, guidance, seed=3, **options)
  of_pixels = pipeline.invert(pixels, LABELS, guidance, **options)
  assert of_pixels.shape == noise.shape


def test_inversion_uses_the_scales_of_sampling(pipeline):
  """CFG acts in the same steps forward and backward."""

  def acts(state):
    strong = state.denoiser(
      state.x, jnp.broadcast_to(state.t, len(state.x)), state.condition
    )
    return jnp.abs(state.predict().velocity - strong.velocity).max() > 1e-4

  config = SampleConfig(
    solver='euler', steps=4, last_step_size=0.0, batch_size=8
  )
  forward = dataclasses.replace(pipeline.sampler, config=config)
  backward = dataclasses.replace(forward, inverted=True)
  method, index = parse('cfg:3@0.6-1'), np.arange(8)
  for item, expected in (
    (forward, [True, True, False, False]),
    (backward, [False, False, True, True]),
  ):
    with jax.set_mesh(item.mesh):
      _, found = item.latents(method, index, index, 0, record=acts)
    assert found.tolist() == expected
    assert item.nfe(method, 0) == 6


def test_inversion_of_a_grid_that_starts_below_one(pipeline):
  options = {'solver': 'heun', 'steps': 40, 'spacing': 'edm'}
  noise = pipeline.noise(8, seed=3)
  latents = pipeline(LABELS, noise=noise, output='latents', **options)
  found = pipeline.invert(latents, LABELS, **options)
  # Without the division by the first standard deviation, 80/81, the ratio of
  # the norms would be off by 0.012.
  ratio = np.linalg.norm(found) / np.linalg.norm(noise)
  assert abs(ratio - 1) < 0.004


def test_frames_between_seeds_and_classes(pipeline):
  frames = pipeline.interpolate([3], GUIDANCE, seeds=(1, 2), count=5)
  assert frames.shape == (5, 8, 8, 1)
  for k, seed in ((0, 1), (-1, 2)):
    np.testing.assert_array_equal(
      frames[k], pipeline(3, GUIDANCE, seed=seed)[0]
    )
  frames = pipeline.interpolate([3, 8], 'ig:1.5,cfg:1.2,s2:1.5', count=4)
  for k, label in ((0, 3), (-1, 8)):
    alone = pipeline(label, 'ig:1.5,cfg:1.2,s2:1.5')[0]
    assert np.abs(frames[k].astype(int) - alone).max() <= 1


def test_noise_between_keeps_its_norm():
  first, last = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
  frames = interpolation.between(first, last, 7)
  norms = np.linalg.norm(frames.reshape(7, -1), axis=1)
  assert np.ptp(norms) < abs(np.linalg.norm(first) - np.linalg.norm(last)) + 0.3
  np.testing.assert_allclose(frames[0], first, rtol=1e-6)
  np.testing.assert_allclose(frames[-1], last, rtol=1e-6)
  same = interpolation.between(first, first, 3)
  np.testing.assert_allclose(same[1], first, rtol=1e-6)


def test_objects_have_short_texts(pipeline):
  film = pipeline.film(LABELS[:2], 'ig:1.5', frames=2)
  exported = [getattr(sample, name) for name in sample.__all__]
  assert len(exported) >= 3
  objects = pipeline, pipeline.sampler, pipeline.denoiser, pipeline.sampling
  for value in (*exported, *objects, film):
    assert len(repr(value)) < 200
    assert '\n' not in repr(value)
  assert 'M parameters' in repr(pipeline)
