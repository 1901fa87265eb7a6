"""The commands `sample` and `sweep` on a trained run."""

import csv
import json
import shutil

import numpy as np
import pytest
from command_runs import QUICK, change_json, refusal, run, succeed
from PIL import Image

from commands import presets
from evaluate import classifier
from sample import image_folder, sampler
from sample.generate import Sampler
from sample.saved_network import SAMPLING
from train import config_file
from train.experiment import build


def words_of(shared_run, out, *words, guidance='ig:1.5'):
  return ('sample', f'--workdir={shared_run}/run', f'--out={out}',
          f'--guidance={guidance}', *QUICK, *words)  # fmt: skip


def draw(*args, **kwargs):
  return succeed(*words_of(*args, **kwargs))


def images(folder):
  with np.load(folder / 'samples.npz') as stored:
    return stored['arr_0']


def about(folder):
  return json.loads((folder / 'samples.json').read_text())


@pytest.mark.parametrize('batch_size', [8, 32])
def test_interrupted_and_continued(shared_run, tmp_path, monkeypatch,
                                   batch_size):  # fmt: skip
  draw(shared_run, tmp_path / 'whole')
  add, calls = image_folder.ImageFolder.add, []

  def interrupted(store, index, *batch):
    add(store, index, *batch)
    store._wait()
    calls.append(index)
    if len(calls) == 1:
      raise KeyboardInterrupt

  monkeypatch.setattr(image_folder.ImageFolder, 'add', interrupted)
  out = tmp_path / 'out'
  assert run(*words_of(shared_run, out)).status == 130
  assert about(out)['complete'] is False
  result = draw(shared_run, out, f'--config.sample.batch_size={batch_size}')
  assert '8 of 20 images exist' in result.err
  assert np.concatenate(calls).tolist() == list(range(20))
  difference = images(out).astype(int) - images(tmp_path / 'whole')
  assert np.abs(difference).max() <= (0 if batch_size == 8 else 1)
  assert 'Already sampled' in draw(shared_run, out).err


def test_protocol_is_whole(shared_run, tmp_path):
  guidance = 'cfg:1.2:schedule=linear@0-0.7,s2:1.25:masks=2'
  draw(shared_run, tmp_path, '--labels=random', '--seed=5', guidance=guidance)
  found = about(tmp_path)
  assert found['guidance'] == guidance
  assert found['sampling']['steps'] == 2 and found['seed'] == 5
  assert found['labels'] == 'random' and found['num'] == 20
  assert found['weights'] == 'ema' and len(found['weights_sha256']) == 64
  assert found['nfe_per_image'] > 2
  assert found['packages'].keys() >= {'jax', 'flax'}
  assert found['solver_steps'] == 2
  assert found['batch_size'] == 8 and 'batch_size' not in found['sampling']
  # Each of the two steps has two masks. Each mask skips block 1 or block 2.
  masks = [step.split('/') for step in found['skipped_blocks']['s2'].split()]
  assert np.shape(masks) == (2, 2) and {*np.ravel(masks)} <= {'1', '2'}


def test_default_folder_is_named_after_the_guidance(shared_run, tmp_path):
  shutil.copytree(shared_run / 'run', tmp_path / 'run')
  words = ['sample', f'--workdir={tmp_path}/run', *QUICK]
  succeed(*words, '--guidance=ig:1.5,cfg:1.2@0-0.7')
  assert len(images(tmp_path / 'run/samples/ig-1.5_cfg-1.2@0-0.7')) == 20
  succeed(*words)
  assert (tmp_path / 'run/samples/none/samples.npz').exists()


def test_png_folder(shared_run, tmp_path):
  draw(shared_run, tmp_path / 'png', '--format=png')
  draw(shared_run, tmp_path / 'npz')
  paths = sorted((tmp_path / 'png' / 'images').iterdir())
  stored = np.stack([np.asarray(Image.open(path)) for path in paths])
  np.testing.assert_array_equal(stored[..., None], images(tmp_path / 'npz'))


def test_another_protocol_is_one_line(shared_run, tmp_path):
  draw(shared_run, tmp_path)
  said = refusal(*words_of(shared_run, tmp_path, guidance='ig:2'))
  assert 'guidance: "ig:1.5" -> "ig:2"' in said.splitlines()[-1]
  draw(shared_run, tmp_path, '--overwrite', guidance='ig:2')


def test_an_earlier_checkpoint_guides_the_last(shared_run, tmp_path):
  work, guide = shared_run / 'run', f'--guide={shared_run}/run'
  steps = sorted(int(path.name) for path in (work / 'checkpoints').iterdir())
  for step in steps[0], steps[-1]:
    draw(shared_run, tmp_path / str(step), guide, f'--guide_step={step}',
         guidance='auto:2')  # fmt: skip
    assert about(tmp_path / str(step))['guide']['step'] == step
    assert about(tmp_path / str(step))['nfe_per_image'] == 4
  draw(shared_run, tmp_path / 'none', guidance='none')
  plain, early, late = (
    images(tmp_path / name).astype(int)
    for name in ('none', str(steps[0]), str(steps[-1]))
  )
  assert (early != plain).any()
  np.testing.assert_array_equal(late, plain)  # Here the guide is the network.


@pytest.mark.parametrize(('words', 'message'), [
  (['--guidance=igg:2'], "unknown guidance method 'igg'"),
  (['--guidance=s2:2:skip=9'], 'needs more than 10 blocks'),
  (['--guidance=cfg:2@0.7-0.2'], '0 <= low < high <= 1'),
  (['--guidance=auto:2'], 'auto needs a weaker network'),
  (['--guidance=cfg:2', '--guide={run}'], 'is not used'),
  (['--guide_step=3'], '--guide_step needs --guide'),
  (['--guidance=auto:2', '--guide={run}', '--guide_step=7'], 'of step 7'),
  (['--guidance=auto:2', '--guide=/nowhere'], 'not the workdir of a run'),
  (['--guidance=cfg:2,apg:2'], 'both act on the label'),
  (['--guidance=cfg++:0.1', '--config.sample.solver=heun'], 'DDIM'),
  (['--guidance=cfg_zero:2:zero_steps=50'], 'first 50 of'),
  (['--config.sample.steps=-3'], 'steps is -3'),
  (['--config.sample.spacing=cosin'], "mean 'cosine'"),
  (['--config.sample.spacing=1,0.5,0.7,0'], 'decreasing times'),
  (['--config.sample.state_dtype=float16'], 'float32, float64'),
  (['--config.sample.batch_size=0'], 'sample.batch_size is 0'),
  (['--config.sample.batch_size=12'], 'positive multiple of 8'),
  (['--config.sample.solver=dopri5', '--guidance=s2:2'], 'its own steps'),
  (['--config.sample.solver=dopri5:rtol=0'],
   'rtol is 0.0, expected a number from 1e-12'),
  (['--preset=sit'], 'expected one of dit_xl_cfg'),
  (['--format=jpg'], "invalid choice: 'jpg'"),
  (['--num=0'], '--num is 0'),
  (['--step=7'], 'no checkpoint of step 7'),
  (['--labels=11'], 'classes lie between 0 and 9'),
])  # fmt: skip
def test_bad_input_is_one_line(shared_run, tmp_path, words, message):
  words = [word.replace('{run}', f'{shared_run}/run') for word in words]
  said = refusal('sample', f'--workdir={shared_run}/run',
                 f'--out={tmp_path}/out', *words)  # fmt: skip
  assert message in said.splitlines()[-1]
  assert not (tmp_path / 'out').exists()


def test_cfg_without_a_null_label_is_one_line(shared_run, tmp_path):
  shutil.copy(shared_run / 'run' / 'config.json', tmp_path)
  change_json(
    tmp_path / 'config.json', lambda c: c['objective'].update(label_dropout=0.0)
  )
  said = refusal('sample', f'--workdir={tmp_path}', '--guidance=cfg:2')
  assert 'cfg needs the null label' in said.splitlines()[-1]


@pytest.mark.parametrize('name', config_file.load_config(presets.PRESETS))
def test_presets_are_settings_of_their_family(name):
  guidance, assignments, row = presets.preset(name)
  assert row['fid'] > 1 and row['num'] == 50_000
  family = 'ig_' if 'ig:' in guidance else ''
  family += name.split('_')[0]
  config = config_file.load_config('configs/base.py')
  config.sample.update(SAMPLING.get(family, {}))
  if 'repa' in name or family == 'ig_sit':  # Both use REPA's code.
    config.sample.update({'state_dtype': 'float64', 'truncate': True})
  expected = config.sample.to_dict()
  config_file.override(config, assignments)
  experiment = build(config.to_dict())
  assert experiment.sample.solver
  assert guidance != 'none'
  if name not in ('sit_xl_cfg_ode',):  # This preset has another solver.
    assert config.sample.to_dict() == expected or 'repa' in name


def test_a_preset_says_what_it_costs_and_for_which_network_it_is(shared_run):
  """`sample` prints the cost before sampling, even if --out is not writable."""
  said = refusal('sample', f'--workdir={shared_run}/run', '--out=/dev/null/x',
                 '--preset=sit_xl_ig_cfg', '--num=1')  # fmt: skip
  assert 'cannot be written' in said
  assert (
    'Preset sit_xl_ig_cfg: 422 NFE per image, published for SiT-XL/2; this '
    'network differs: 3 blocks, width 16, patch 2.'
  ) in said


@pytest.mark.parametrize('name', config_file.load_config(presets.PRESETS))
def test_a_preset_sets_all_that_its_figure_depends_on(name):
  _, assignments, row = presets.preset(name)
  keys = dict(assignment.split('=', 1) for assignment in assignments)
  every = config_file.load_config('configs/base.py').sample.keys()
  assert keys.keys() == {f'sample.{key}' for key in every} - {
    'sample.batch_size'
  } | {'model.dtype'}
  assert keys['model.dtype'] == 'float32'
  # Only REPA's code and the IG code for SiT truncate pixel values.
  of_repa = 'repa' in name or (name.startswith('sit') and 'ig' in name)
  assert keys['sample.truncate'] == str(of_repa)
  assert keys['sample.state_dtype'] == ('float64' if of_repa else 'float32')
  assert (row['labels'], row['num']) == ('random', 50_000)
  expected = 'va_vae' if name.startswith('lightning') else 'sd_vae'
  assert row['autoencoder'] == expected and row['decoder']


def test_a_preset_brings_labels_and_number_of_images(shared_run, monkeypatch):
  calls = []
  monkeypatch.setattr(
    'commands.sample.ImageJob',
    lambda request, guidance, **words: calls.append(words),
  )
  monkeypatch.setattr('commands.sample.sample', lambda *args, **words: None)
  words = ['sample', f'--workdir={shared_run}/run']
  for more in ([], ['--preset=sit_xl_cfg'],
               ['--preset=sit_xl_cfg', '--num=7', '--labels=3']):  # fmt: skip
    succeed(*words, *more)
  assert [(call['labels'], call['num']) for call in calls] == [
    ('balanced', 100), ('random', 50_000), ('3', 7),
  ]  # fmt: skip


def test_presets_take_the_words_of_the_user_last(shared_run, tmp_path):
  # The config lacks a key, like the config of an older version.
  shutil.copytree(shared_run / 'run', tmp_path / 'run')
  change_json(
    tmp_path / 'run/config.json', lambda c: c['sample'].pop('truncate')
  )
  succeed('sample', f'--workdir={tmp_path}/run', f'--out={tmp_path}/out',
          '--preset=sit_xl_ig_cfg', '--guidance=ig:1.1', *QUICK)  # fmt: skip
  found = about(tmp_path / 'out')
  assert found['guidance'] == 'ig:1.1'
  assert found['sampling']['solver'] == 'euler_maruyama'
  assert found['sampling']['steps'] == 2
  assert found['sampling']['state_dtype'] == 'float64'
  assert found['sampling']['truncate'] is True
  assert found['model']['dtype'] == 'float32'
  assert (found['labels'], found['num']) == ('random', 20)


def test_truncated_pixels_are_rounded_down(shared_run, tmp_path):
  stored = []
  for value in ('false', 'true'):
    draw(shared_run, tmp_path / value, f'--config.sample.truncate={value}')
    stored.append(images(tmp_path / value).astype(int))
  assert set(np.unique(stored[0] - stored[1])) == {0, 1}


def test_sweep(shared_run, mine, tmp_path, monkeypatch):
  words = ['sweep', f'--workdir={shared_run}/run', f'--out={tmp_path}', *QUICK,
           mine, '--bootstrap=3']  # fmt: skip
  text = '--guidance=ig:1..2:2,cfg:1.0..1.5:3@0-0.7'
  drawn, images_of = [], Sampler.images

  def counted(self, guidance, *args, **kwargs):
    drawn.append(guidance)
    if len(drawn) == 4:
      raise KeyboardInterrupt
    return images_of(self, guidance, *args, **kwargs)

  monkeypatch.setattr(Sampler, 'images', counted)
  assert run(*words, text).status == 130
  assert len((tmp_path / 'sweep.csv').read_text().splitlines()) == 1 + 3
  cache = sampler.sample._cache_size()
  result = succeed(*words, text)
  assert len(drawn) == 4 + 3  # The sweep resumes after 3 points.
  assert sampler.sample._cache_size() <= cache + 1
  rows = list(csv.DictReader((tmp_path / 'sweep.csv').read_text().splitlines()))
  assert [(row['ig'], row['cfg']) for row in rows] == [
    (ig, cfg) for ig in ('1.0', '2.0') for cfg in ('1.0', '1.25', '1.5')
  ]
  assert all(float(row['fd']) > 0 for row in rows)
  assert rows[0]['nfe'] == '2.0' and float(rows[1]['nfe']) == 3  # CFG in step 2
  assert all(row['fd'] == repr(float(row['fd'])) for row in rows)  # not rounded
  assert [row['mark'] for row in rows].count('best') == 1
  assert {row['mark'] for row in rows} <= {'best', 'tied', ''}
  best = next(row for row in rows if row['mark'] == 'best')
  assert float(best['fd']) == min(float(row['fd']) for row in rows)
  assert '| fd |' in result.out and ' ± ' in result.out
  assert '2 standard errors of the difference' in result.out
  with Image.open(tmp_path / 'sweep.png') as picture:
    assert picture.size == (910, 650)
  # A sweep with another guidance interval must not resume the earlier sweep.
  said = refusal(*words, '--guidance=ig:1..2:2,cfg:1.0..1.5:3')
  assert 'guidance differ' in said


@pytest.mark.slow
def test_sweep_over_one_scale(shared_run, tmp_path, monkeypatch):
  monkeypatch.setattr(classifier, 'recipe', lambda shape: (10, 16))
  result = succeed('sweep', f'--workdir={shared_run}/run', *QUICK,
                   f'--out={tmp_path}', '--guidance=cfg:1.2,s2:1..3:2',
                   '--metric=accuracy')  # fmt: skip
  assert len(result.out.splitlines()) == 2 + 2 + 1  # header, two points, note
  assert (tmp_path / 'sweep.png').exists()


@pytest.mark.parametrize(('text', 'message'), [
  ('ig:1.5', 'has 0 ranges'),
  ('ig:1..2:3,cfg:1..2:3,s2:1..2:3', 'has 3 ranges'),
  ('ig:2..1:3', 'LOW below HIGH'),
  ('ig:1..2:1', 'COUNT from 2'),
  ('igg:1..2:3', 'unknown guidance method'),
  ('ig:1..2', 'stands in the place of a scale'),
  ('apg:2:norm=1..5:3', 'stands in the place of a scale'),
  ('fdg:1..2:3:low=1..2:3', 'stands in the place of a scale'),
  ('ig:1..1.0000001:5', 'different in six digits'),
])  # fmt: skip
def test_bad_sweeps_are_one_line(shared_run, tmp_path, text, message):
  said = refusal('sweep', f'--workdir={shared_run}/run', f'--guidance={text}',
                 f'--out={tmp_path}/out')  # fmt: skip
  assert message in said.splitlines()[-1]
  assert not (tmp_path / 'out').exists()
