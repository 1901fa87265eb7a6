"""`sample --folder` generates images from a weight folder. No run is needed."""

import dataclasses
import json

import jax
import networks
import numpy as np
import pytest
import reference
from command_runs import run
from PIL import Image

from core.errors import InputError
from dit import autoencoder
from dit.config import DiTConfig
from dit.weights import convert, quantize
from dit.weights import folder as weights
from sample import decoder as decoder_lib
from train import runs, workdir
from train.experiment import build

SIZES = {'size': 4, 'num_classes': 5, 'patch': 2, 'depth': 2, 'width': 16,
         'num_heads': 2, 'taps': (1,)}  # fmt: skip
QUICK = ['--num=5', '--config.sample.batch_size=8', '--config.sample.steps=3']


def save(folder, channels, **info):
  config = DiTConfig(channels=channels, **SIZES)
  params = jax.device_get(networks.perturbed(config).params)
  weights.save_folder(folder, config, params, info=info)
  return config


def source_of(tmp_path):
  return runs.Source(str(tmp_path / 'net'), is_run=False)


def sampled(folder):
  return np.load(folder / 'samples.npz')['arr_0']


def test_a_run_and_its_folder_give_the_same_images(shared_run, tmp_path):
  work, folder = shared_run / 'run', tmp_path / 'folder'
  assert run('convert', f'--from={work}', f'--to={folder}').status == 0
  settings = ['--num=12', '--config.sample.batch_size=16',
              '--config.sample.solver=heun', '--config.sample.steps=2',
              '--config.sample.last_step_size=0',
              '--guidance=ig:1.5']  # fmt: skip
  for name, source in (('a', f'--workdir={work}'), ('b', f'--folder={folder}')):
    result = run('sample', source, f'--out={tmp_path / name}', *settings)
    assert result.status == 0, result.err
  np.testing.assert_array_equal(
    sampled(tmp_path / 'a'), sampled(tmp_path / 'b')
  )
  ours, theirs = (
    json.loads((tmp_path / name / 'samples.json').read_text()) for name in 'ab'
  )
  for key in ('weights_sha256', 'weights', 'step', 'path', 'model', 'sampling'):
    assert ours[key] == theirs[key], key
  assert theirs['folder'] == str(folder)


def test_a_folder_of_a_run_is_sampled_as_the_run_is(shared_run, tmp_path):
  """A weight folder, quantized or not, stores the run's sampling settings."""
  work, wide, small = shared_run / 'run', tmp_path / 'wide', tmp_path / 'small'
  assert run('convert', f'--from={work}', f'--to={wide}').status == 0
  result = run('convert', f'--from={wide}', f'--to={small}', '--quantize=int8')
  assert result.status == 0, result.err
  size = (small / 'model.safetensors').stat().st_size
  assert f', int8: {size:,} bytes, 0.' in result.out
  assert size < (wide / 'model.safetensors').stat().st_size / 2
  ours = runs.Source(str(work), is_run=True).open(())
  for folder in (wide, small):
    theirs = runs.Source(str(folder), is_run=False).open(())
    assert theirs.sample.batch_size != ours.sample.batch_size  # not stored
    expected = dataclasses.replace(ours.sample, batch_size=64)
    assert theirs.sample == expected and theirs.sample.steps == 3

  settings = ['--num=16', '--config.sample.batch_size=16']
  for name, source in (('a', f'--workdir={work}'), ('b', f'--folder={small}')):
    result = run('sample', source, f'--out={tmp_path / name}', *settings)
    assert result.status == 0, result.err
  ours, theirs = (sampled(tmp_path / name).astype(int) for name in 'ab')
  assert 0 < abs(ours - theirs).mean() < 3
  protocol = json.loads((tmp_path / 'b' / 'samples.json').read_text())
  assert protocol['quantized'] == {'scheme': 'int8'}
  assert protocol['sampling']['steps'] == 3

  # `convert` must refuse a quantized folder.
  for target, argv in (
    ('x', []), ('x', ['--quantize=int4']), ('x.safetensors', []),
  ):  # fmt: skip
    result = run('convert', f'--from={small}', f'--to={tmp_path}/{target}',
                 *argv)  # fmt: skip
    assert result.status == 2 and 'holds int8 weights' in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / target).exists()
  experiment = build(workdir.load_config(work))
  for folder in (wide, small):
    start = dataclasses.replace(
      experiment,
      train=dataclasses.replace(experiment.train, init_from=str(folder)),
    )
    if folder == wide:
      runs.check_start(start)
    else:
      with pytest.raises(InputError, match='needs unquantized ones'):
        runs.check_start(start)


def test_quantized_weights_in_a_folder_that_does_not_say_so(tmp_path):
  save(tmp_path / 'net', 3)
  config, params, _ = weights.load_folder(tmp_path / 'net')
  for scheme in quantize.SCHEMES:
    folder = tmp_path / scheme
    weights.save_folder(folder, config, params, info={}, scheme=scheme)
    (folder / 'config.json').write_bytes(
      (tmp_path / 'net' / 'config.json').read_bytes()
    )
    result = run('sample', f'--folder={folder}', *QUICK)
    assert result.status == 2 and f'holds {scheme} weights' in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
  ('section', 'message'),
  [
    ([1], 'not a section'),
    ({'stepz': 3}, 'unknown key "sample.stepz"'),
    ({'batch_size': 3}, 'unknown key "sample.batch_size"'),
    ({'a\nb': 3}, 'unknown key "sample.a'),
    ({'steps': '3'}, "sample.steps is '3', expected an integer"),
    ({'steps': True}, 'sample.steps is True, expected an integer'),
    ({'steps': 3.0}, 'sample.steps is 3.0, expected an integer'),
    ({'steps': 10**12}, 'expected an integer from 1 to 100,000'),
    ({'steps': -1}, 'steps'),
    ({'shift': float('nan')}, 'sample.shift is nan, expected a number'),
    ({'solver': None}, 'sample.solver is None, expected a text'),
    ({'solver': 'eular'}, "'euler'"),
  ],
)
def test_samplers_that_are_none(tmp_path, section, message):
  save(tmp_path / 'net', 3, sample=section)
  with pytest.raises(InputError) as caught:
    source_of(tmp_path).open(())
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_a_sampler_may_be_told_in_part(tmp_path):
  save(tmp_path / 'net', 3, family='dit', sample={'steps': 7, 'shift': 2})
  sampling = source_of(tmp_path).open(['sample.solver=heun']).sample
  assert (sampling.steps, sampling.shift) == (7, 2)
  assert (sampling.solver, sampling.respacing) == ('heun', '250')


@pytest.mark.slow
def test_an_autoencoder_decodes(tmp_path):
  shared = reference.PLACES[1].parent / 'weights' / 'taef2'
  if not shared.exists():
    pytest.skip('the weights of taef2 are not beside the project')
  save(tmp_path / 'net', channels=32)
  decoder = shared / 'taef2_decoder.safetensors'
  result = run('sample', f'--folder={tmp_path}/net',
               f'--autoencoder=taef2:{decoder}', *QUICK)  # fmt: skip
  assert result.status == 0, result.err
  images = sampled(tmp_path / 'net' / 'samples' / 'none')
  assert images.shape == (5, 32, 32, 3) and images.std() > 10
  with Image.open(tmp_path / 'net/samples/none/samples.png') as image:
    assert image.mode == 'RGB'


@pytest.mark.parametrize(
  ('family', 'expected', 'path'),
  [
    ('ig_sit', ('euler_maruyama', 250, 1, 0.04, '', 'step'), 'linear'),
    ('sit', ('euler_maruyama:diffusion=sigma', 250, 1, 0.04, '', 'step'),
     'linear'),
    ('dit', ('ddpm', 250, 1, 0.04, '250', 'step'), 'discrete'),
    ('ig_lightningdit',
     ('heun:final_step=heun', 124, 1 / 0.3, 0, '', 'evaluation'), 'linear'),
  ],
)  # fmt: skip
def test_families_are_sampled_as_published(tmp_path, family, expected, path):
  folder, taps = reference.FAMILIES[family]
  config, params = convert.from_published(
    reference.read(f'{folder}/model.safetensors'),
    family=family,
    num_heads=4,
    taps=taps,
  )
  weights.save_folder(tmp_path / 'net', config, params, info={'family': family})
  experiment = source_of(tmp_path).open(())
  sampling = experiment.sample
  names = (
    'solver',
    'steps',
    'shift',
    'last_step_size',
    'respacing',
    'scales_at',
  )
  assert tuple(getattr(sampling, name) for name in names) == expected
  assert experiment.objective.path == path and experiment.model == config
  changed = source_of(tmp_path).open(['sample.steps=7'])
  assert changed.sample.steps == 7


@pytest.mark.parametrize(
  ('channels', 'argv', 'message'),
  [
    (4, [], 'latents of 4 channels, not images'),
    (3, ['--weights=raw'], 'which holds one set'),
    (3, ['--config.model.depth=3'], 'belongs to the folder'),
    (3, ['--config.sample.stepz=3'], "Did you mean 'sample.steps'"),
    (3, ['--autoencoder=sd_vea:a'], "Did you mean 'sd_vae'"),
    (3, ['--autoencoder=sd_vae:a.safetensors'], 'a.safetensors is not there'),
    (3, ['--autoencoder=sd_vae'], 'got 0 files'),
    (3, ['--guidance=ig:2:tap=1'], 'needs tap 1'),
    (3, ['--config.sample.solver=ddpm'], 'variance preserving'),
    (3, ['--workdir=elsewhere'], 'not allowed with argument --folder'),
  ],
)
def test_what_cannot_work(tmp_path, channels, argv, message):
  save(tmp_path / 'net', channels)
  result = run('sample', f'--folder={tmp_path}/net', *QUICK, *argv)
  assert result.status == 2 and message in result.err
  assert len(result.err.splitlines()) == 1
  assert not (tmp_path / 'net' / 'samples').exists()


def test_protocol_is_not_what_a_stranger_wrote(tmp_path):
  save(tmp_path / 'net', 3, weights_sha256='forged', path='linear',
       family=['dit'])  # fmt: skip
  assert run('sample', f'--folder={tmp_path}/net', *QUICK).status == 0
  folder = tmp_path / 'net' / 'samples' / 'none'
  protocol = json.loads((folder / 'samples.json').read_text())
  assert len(protocol['weights_sha256']) == 64


@pytest.fixture
def broken(tmp_path):
  """Returns a function that saves weights with NaN for the given labels."""

  def write(*labels):
    save(tmp_path / 'net', 3)
    config, params, _ = weights.load_folder(tmp_path / 'net')
    params['label_embed'][list(labels)] = np.nan
    folder = tmp_path / 'nan'
    weights.save_folder(folder, config, params, info={}, allow_nonfinite=True)
    return folder

  return write


@pytest.mark.parametrize('form', ['npz', 'png'])
def test_a_set_without_a_finite_image_is_not_finished(broken, form):
  words = ('sample', f'--folder={broken(0, 1, 2, 3, 4)}', f'--format={form}')
  for _ in range(2):  # The second command samples nothing.
    result = run(*words, *QUICK)
    assert result.status == 1 and 'Already sampled' not in result.err
    (line,) = (x for x in result.err.splitlines() if x.startswith('main.py:'))
    assert '5 of 5 images have values that are not finite' in line


def test_images_that_are_not_finite_are_recorded(broken, mine, tmp_path):
  folder, out = broken(1, 3), tmp_path / 'out'
  words = ('sample', f'--folder={folder}', f'--out={out}', *QUICK)
  for _ in range(2):
    result = run(*words)
    assert result.status == 0, result.err
    assert '2 of 5 images have values that are not finite' in result.err
    protocol = json.loads((out / 'samples.json').read_text())
    assert protocol['complete'] and protocol['nonfinite'] == 2
    assert protocol['nonfinite_images'] == '1,3'
  assert 'Already sampled' in result.err
  # `evaluate` must refuse a set in which 2 of 5 images are not finite.
  result = run(
    'evaluate', f'--samples={out}/samples.npz', mine,
    f'--reference={out}/samples.npz',
  )  # fmt: skip
  assert result.status == 2 and '2 of 5 images' in result.err
  result = run(
    'evaluate', f'--folder={folder}', mine, '--num=5',
    f'--reference={out}/samples.npz', *QUICK[1:],
  )  # fmt: skip
  assert result.status == 1 and '2 of 5 images' in result.err


def test_few_images_that_are_not_finite_are_a_warning(mine, tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3), np.uint8)
  np.savez(tmp_path / 'samples.npz', images)
  (tmp_path / 'samples.json').write_text('{"nonfinite": 1}')
  result = run(
    'evaluate', f'--samples={tmp_path}/samples.npz', '--metrics=fid',
    f'--reference={tmp_path}/samples.npz', f'--out={tmp_path}/out',
    mine,
  )  # fmt: skip
  assert result.status == 0, result.err
  written = json.loads((tmp_path / 'out' / 'evaluation.json').read_text())
  assert written['samples']['nonfinite'] == 1
  assert any('1 of the images had values' in x for x in written['warnings'])


@pytest.mark.parametrize('scale', ['3e38', '1e39'])
def test_a_scale_that_overflows_ends_in_one_line(tmp_path, scale):
  save(tmp_path / 'net', 3)
  result = run(
    'sample', f'--folder={tmp_path}/net', *QUICK, f'--guidance=cfg:{scale}'
  )
  assert result.status in (1, 2), result.err  # Invalid scales give status 2.
  assert result.err.count('main.py:') == 1


def test_wrong_autoencoder():
  with pytest.raises(InputError, match='latents of 4 channels, not images'):
    decoder_lib.check_decoder(None, 4)
  config = autoencoder.TinyConfig(latent_channels=3)
  decoder = autoencoder.Autoencoder({}, config)
  with pytest.raises(InputError, match='3 latent channels, the network 4'):
    decoder_lib.check_decoder(decoder, 4)
