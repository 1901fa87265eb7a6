import dataclasses
import json
import shutil

import numpy as np
import pytest
from command_runs import run

from core.errors import InputError
from dit.path import path_named
from sample import load, tile
from sample.generate import SampleConfig
from train.config_file import load_config

LABELS = [0, 1, 2, 3, 4, 5, 6, 7]
GUIDANCE = 'ig:1.5,cfg:1.2@0-0.7'


@pytest.fixture(scope='module')
def folder(shared_run, tmp_path_factory):
  target = tmp_path_factory.mktemp('weights') / 'digits'
  result = run('convert', f'--from={shared_run}/run', f'--to={target}')
  assert result.status == 0, result.err
  return target


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
  pipeline, folder, shared_run, tmp_path
):
  expected = by_command(
    tmp_path, f'--workdir={shared_run}/run', f'--guidance={GUIDANCE}'
  )
  ours = pipeline(LABELS, GUIDANCE, seed=3)
  assert ours.dtype == np.uint8
  # The command writes gray images with three equal channels.
  assert np.abs(np.broadcast_to(ours, expected.shape) - expected).max() <= 1
  of_folder = load(folder)(LABELS, GUIDANCE, seed=3)
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
  'labels', [[], [10], [-1], [0.5], [[1, 2]], [[1], [2, 3]], ['a'], 3]
)
def test_labels_are_classes(pipeline, labels):
  with pytest.raises(InputError, match='between 0 and 9'):
    pipeline(labels)


def test_bad_words(pipeline, shared_run, folder):
  sampler = dataclasses.replace(pipeline.sampler, path=path_named('vp'))
  vp = dataclasses.replace(pipeline, sampler=sampler)
  for call, message in (
    (lambda: pipeline(LABELS, 'igg:1.5'), "Did you mean 'ig'"),
    (lambda: pipeline(LABELS, 'auto:2'), 'needs a weaker network'),
    (lambda: pipeline(LABELS, None), 'expected text such as'),
    (lambda: pipeline(LABELS, step=5), "Did you mean 'steps'"),
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
    (lambda: load(shared_run / 'run', weights='ema:0.1'), 'main.py convert'),
    (lambda: load(shared_run / 'run', step=7), 'no checkpoint of step 7'),
    (lambda: load(shared_run / 'run', step='20'), "no checkpoint of step '20'"),
    (lambda: load(folder, step=7), 'holds one set'),
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
