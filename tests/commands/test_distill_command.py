"""The command `distill` trains students and recipes, and refuses bad input."""

import json
import shutil
import types

import jax
import numpy as np
import pytest
from command_runs import (
  ROOT,
  change_json,
  printed,
  refusal,
  refused_line,
  succeed,
)

from commands.explore.explorer import Explorer
from commands.sample_job import SampleRequest
from distill import run as distilling
from distill import sd35_flash
from distill.config import build_student
from dit.weights import folder as weights
from dit.weights.checkpoint_names import saved_steps
from sample import load
from train import config_file, workdir
from train.metrics_log import read_metrics
from train.runs import Source

TINY = {
  'model.depth': 3, 'model.width': 16, 'model.num_heads': 2,
  'train.batch_size': 16, 'train.images': 48, 'checkpoint.every_images': 32,
  'log.every_images': 16, 'log.preview_every_images': 48,
  'log.preview_num': 10, 'sample.batch_size': 16, 'distill.fake_updates': 1,
  'distill.substeps': 1, 'eval.num': 32, 'eval.metrics': "('fd',)",
  'distill.merge_ratios': '(0.0, 0.5)',
}  # fmt: skip


def words_of(teacher, workdir, argument, **given):
  values = TINY | {'data.dir': teacher.parent / 'data'} | given
  return (
    'distill', f'--config={ROOT}/configs/distill/digits.py:{argument}',
    f'--teacher={teacher}', f'--workdir={workdir}',
    *(f'--config.{key}={value}' for key, value in values.items()),
  )  # fmt: skip


def run_distill(*args, **given):
  return succeed(*words_of(*args, **given))


@pytest.fixture(scope='module')
def teacher(shared_run):
  return shared_run / 'run'


@pytest.fixture(scope='module')
def student(teacher, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('student') / 'run'
  run_distill(teacher, workdir, 'hybrid,2')
  return workdir


@pytest.mark.slow
def test_printed_commands_work_on_a_student(student, mine, tmp_path):
  workdir = shutil.copytree(student, tmp_path / 'a student')
  succeed('report', f'--workdir={workdir}', '--no_draw')
  # The student needs no guidance, so its report suggests no sweep.
  ((command, *words),) = printed((workdir / 'report.html').read_text())
  assert command == 'evaluate'
  succeed(command, *words, '--num=20', mine)


@pytest.mark.parametrize(
  ('argument', 'stages', 'passes'),
  # Each update samples up to one of two steps, 1.5 passes on average. A student
  # update adds 2 passes for its gradient, 2 of the teacher for CA, and 1 of the
  # teacher and 1 of the fake for DM. A fake update adds 3: 7.5 + 4.5 = 12.
  [('hybrid,2', 1, '12'), ('flash,2', 4, None)],
)
def test_dry_run(teacher, tmp_path, argument, stages, passes):
  result = succeed(*words_of(teacher, tmp_path / 'run', argument), '--dry_run')
  assert not list(tmp_path.iterdir())
  assert result.out.count('a student of 2 steps') == stages
  assert result.out.count('on each device, GiB: teacher 0.0') == stages
  assert 'distill.fake_updates = 1' in result.out
  if passes:
    assert f'a step: {passes} passes an image' in result.out


def test_leaves_what_a_run_leaves(student, teacher):
  assert saved_steps(student) == [2, 3]
  rows = read_metrics(student)
  assert [row['step'] for row in rows] == [1, 2, 3]
  for name in ('dm', 'ca', 'ca_to_dm', 'cosine_fake_real', 'student_std'):
    assert np.isfinite(rows[-1][f'distill/{name}'])
  assert list((student / 'previews').iterdir())
  about = json.loads((student / 'teacher.json').read_text())
  assert about['place'] == str(teacher)
  assert (student / 'latents.json').exists()


def test_the_same_command_has_nothing_left_to_do(student, teacher):
  result = run_distill(teacher, student, 'hybrid,2')
  assert 'Already trained: 3 steps' in result.err


@pytest.mark.slow
def test_a_longer_student_goes_on(student, teacher, tmp_path):
  longer = shutil.copytree(student, tmp_path / 'run')
  result = run_distill(teacher, longer, 'hybrid,2', **{'train.images': 64})
  assert 'Trained 4 steps' in result.err
  assert 'follows the cosine schedule of the new length' in result.err
  rows = read_metrics(longer)
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  experiment = build_student(workdir.load_config(longer))
  assert experiment.train.images == 64
  schedule, _ = distilling.make_rules(experiment)
  assert rows[-1]['lr'] == pytest.approx(float(schedule(3)))


def test_a_student_is_sampled_as_its_config_says(student, tmp_path):
  succeed('sample', f'--workdir={student}', '--num=16', f'--out={tmp_path}')
  about = json.loads((tmp_path / 'samples.json').read_text())
  assert about['sampling']['solver'] == 'renoise'
  assert about['nfe_per_image'] == 2


def test_a_folder_of_a_student_knows_its_sampler(student, tmp_path):
  folder = tmp_path / 'net'
  succeed('convert', f'--from={student}', f'--to={folder}', '--quantize=int8')
  info = weights.load_config(folder)[1]
  assert info['sample']['solver'] == 'renoise'
  about = json.loads((student / 'teacher.json').read_text())
  assert info['student'] == {
    'teacher': 'run', 'teacher_sha256': about['sha256'],
    'method': 'Decoupled DMD (hybrid schedule)', 'guidance': 'cfg:1.05',
  }  # fmt: skip
  card = (folder / 'README.md').read_text()
  assert 'student of run, distilled by Decoupled DMD (hybrid schedule)' in card
  succeed('sample', f'--folder={folder}', '--num=16',
          '--config.sample.batch_size=16')  # fmt: skip
  (about,) = folder.glob('samples/*/samples.json')
  assert json.loads(about.read_text())['nfe_per_image'] == 2


def test_another_teacher_does_not_go_on(student, teacher, tmp_path):
  student = shutil.copytree(student, tmp_path / 'student')
  other = shutil.copytree(teacher, tmp_path / 'other')
  (tmp_path / 'data').symlink_to(teacher.parent / 'data')
  shutil.rmtree(other / 'checkpoints' / str(max(saved_steps(other))))
  before = (student / 'config.json').read_text()
  said = refusal(*words_of(other, student, 'hybrid,2'))
  assert 'with other weights' in said
  assert (student / 'config.json').read_text() == before
  # The run resumes only with the same number of steps and the same shift.
  for argument, shift in ('hybrid,3', {}), ('hybrid,2', {'sample.shift': 2.0}):
    said = refusal(*words_of(teacher, student, argument, **shift))
    assert 'holds another config (sample.' in said


STAGES = ('1-trajectory', '2-sharing', '3-low', '4-high')
RECIPE = {'train.images': 16, 'checkpoint.every_images': 16, 'eval.num': 16,
          'log.preview_every_images': 0}  # fmt: skip


@pytest.mark.slow
def test_explore_starts_a_student_without_guidance(student):
  explorer = Explorer(SampleRequest(Source.at(str(student))))
  start = explorer.start
  assert (start.guidance, start.steps) == ('none', 2)
  picture = explorer.draw(start)
  assert picture.nfe == 2
  np.testing.assert_array_equal(picture.images, picture.base)
  assert explorer.film(start).images['guided'].shape[:2] == (2, 1)


@pytest.fixture(scope='module')
def recipe(teacher, tmp_path_factory):
  folder = tmp_path_factory.mktemp('recipe') / 'flash'
  return folder, run_distill(teacher, folder, 'flash,2', **RECIPE).out


@pytest.mark.slow
def test_a_recipe_runs_its_stages_and_merges(teacher, recipe, tmp_path):
  flash, printed_text = recipe
  assert all(saved_steps(flash / stage) == [1] for stage in STAGES)
  for stage, start in zip(STAGES[1:], (0, 1, 1), strict=True):
    config = json.loads((flash / stage / 'config.json').read_text())
    assert config['train']['init_from'].endswith(STAGES[start])
  assert config['seed'] == 3
  found = json.loads((flash / 'merge.json').read_text())
  assert [row['ratio'] for row in found['rows']] == [None, 0.0, 0.5]
  best = min(found['rows'][1:], key=lambda row: row['fd'])
  assert found['ratio'] == best['ratio']
  assert '| 0.5 |' in printed_text
  assert (
    'Already merged' in run_distill(teacher, flash, 'flash,2', **RECIPE).out
  )
  succeed('sample', f'--folder={flash}/student', '--num=16',
          '--config.sample.batch_size=16', f'--out={tmp_path}')  # fmt: skip


@pytest.mark.slow
def test_a_merged_student_can_be_uploaded(recipe, tmp_path, monkeypatch):
  constants = pytest.importorskip('huggingface_hub.constants')
  student = recipe[0] / 'student'
  card = (student / 'README.md').read_text()
  for words in (
    '# flash\n', 'student of run, distilled by SD3.5-Flash', 'in 2 steps',
    "'none')", '| guidance of the teacher | cfg:1.2 |', '| ratio | fd |',
  ):  # fmt: skip
    assert words in card
  assert str(tmp_path.parent) not in card
  # Folders of earlier versions have no card and do not record the teacher.
  older = shutil.copytree(student, tmp_path / 'older')
  (older / 'README.md').unlink()
  change_json(older / 'config.json', lambda config: config.pop('student'))
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  repository = tmp_path / 'models--org--flash'
  (repository / 'refs').mkdir(parents=True)
  (repository / 'refs' / 'main').write_text('1' * 40)
  shutil.copytree(student, repository / 'snapshots' / ('1' * 40))
  expected = load(older)([3, 8])
  for place in (student, 'hf://org/flash'):
    np.testing.assert_array_equal(load(place)([3, 8]), expected)


@pytest.mark.slow
def test_a_moved_recipe_comes_to_the_same_student(
  teacher, recipe, tmp_path, monkeypatch
):
  first, second = tmp_path / 'a', tmp_path / 'b'
  whole = distilling.distill

  def stopped(experiment, folder, *args, **kwargs):
    return folder.name < '3' and whole(experiment, folder, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(sd35_flash.distilling, 'distill', stopped)
    run_distill(teacher, first, 'flash,2', **RECIPE)
  first.rename(second)
  run_distill(teacher, second, 'flash,2', **RECIPE)
  places = recipe[0], second
  one, two = (weights.load_folder(p / 'student')[1] for p in places)
  jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.fixture
def stages(monkeypatch):
  """Replaces training by a list `run` of (stage folder, initial weights).

  The stage whose folder name is `stop` does not finish.
  """
  made = types.SimpleNamespace(run=[], stop=None)

  def distill(experiment, folder, config, autoencoder, *, extensible):
    del autoencoder
    assert not extensible
    workdir.claim(folder, config, extensible=extensible)
    made.run.append((str(folder), experiment.train.init_from))
    return folder.name != made.stop

  monkeypatch.setattr(sd35_flash.distilling, 'distill', distill)
  monkeypatch.setattr(sd35_flash, '_merge', lambda *_: 'merged')
  return made


def test_a_recipe_may_be_moved(teacher, stages, tmp_path):
  first, second = tmp_path / 'first', tmp_path / 'elsewhere/second'
  stages.stop = STAGES[2]
  run_distill(teacher, first, 'flash,2')
  assert len(stages.run) == 3
  second.parent.mkdir()
  first.rename(second)
  stages.run, stages.stop = [], None
  assert run_distill(teacher, second, 'flash,2').out == 'merged\n'
  starts = ['', *(str(second / STAGES[n]) for n in (0, 1, 1))]
  folders = [str(second / stage) for stage in STAGES]
  assert stages.run == list(zip(folders, starts, strict=True))
  for stage in STAGES:
    assert str(tmp_path) not in (second / stage / 'config.json').read_text()


def start_from(folder, place):
  change_json(
    folder / 'config.json', lambda c: c['train'].update(init_from=place)
  )


@pytest.mark.parametrize('place', ['', '/elsewhere'])
def test_a_recipe_of_an_earlier_version_goes_on(
  teacher, stages, tmp_path, place
):
  """Earlier versions stored absolute paths to initial weights."""
  flash = tmp_path / 'flash'
  run_distill(teacher, flash, 'flash,2')
  for stage, before in zip(STAGES[1:], (0, 1, 1), strict=True):
    start_from(flash / stage, f'{place or tmp_path}/flash/{STAGES[before]}')
  run_distill(teacher, flash, 'flash,2')
  # The last stage starts from stage 2, so a start from stage 1 is refused.
  start_from(flash / STAGES[-1], '/elsewhere/flash/1-trajectory')
  said = refusal(*words_of(teacher, flash, 'flash,2'))
  assert '1-trajectory -> ../2-sharing' in said


def test_stages_keep_their_length(teacher, stages, tmp_path):
  recipe = teacher, tmp_path / 'flash', 'flash,2'
  run_distill(*recipe)
  said = refusal(*words_of(*recipe, **{'train.images': 96}))
  assert 'train.images: 48 -> 96' in said


def test_ends_of_the_ratio_are_the_branches():
  low, high = {'a': np.float32([1, -0.0])}, {'a': np.float32([3, 5])}
  assert sd35_flash.merged(low, high, 1) is low
  assert sd35_flash.merged(low, high, 0.0) is high
  np.testing.assert_array_equal(
    sd35_flash.merged(low, high, 0.25)['a'], [2.5, 3.75]
  )


@pytest.mark.parametrize(('argument', 'given', 'message'), [
  ('hybrid,2', {'model.size': 16}, 'has latent_shape (8, 8, 1), the network'),
  ('hybrid,2', {'model.num_classes': 12}, 'has num_classes 10'),
  ('hybrid,2', {'model.depth': 2}, 'holds another network: depth 3, not 2'),
  ('hybrid,2', {'objective.path': 'cosine'}, 'has path linear'),
  ('hybrid,1001', {}, "student's grid has 1001 steps, expected 1 to 1000"),
  ('hybrid,2', {'sample.solver': 'heun'}, 'sample.solver is heun'),
  ('hybrid,2', {'sample.spacing': 'edm'}, 'whose times start at 0.9877'),
  ('sharing,1', {}, 'one step has none'),
  ('sharing,2', {'sample.solver': 'renoise'}, 'samples with sample.solver=eul'),
  ('dm,1', {'distill.branch': 'low'}, 'distill.branch low has no step'),
  ('hybrid,2', {'distill.guidance': 'ig:1.5:tap=1'}, 'needs tap 1'),
  ('hybrid,2', {'distill.method': ''}, "distill.method is ''"),
  ('hybrid,2', {'ema.widths': '(0.1,)'}, 'ema.widths are for training'),
  ('hybrid,2', {'log.preview_guidance': 'ig:2'}, 'needs tap 0'),
  ('sharing,2', {'distill.discriminator_blocks': '(4,)'}, 'expected 1 to 3'),
  ('hybrid,2', {'model.taps': '(1,)'}, 'a student has none'),
  ('sharing,2', {'objective.path': 'cosine'}, 'has path linear'),
  ('hybrd,2', {}, 'is not METHOD,STEPS'),
  ('flash,2', {'distill.merge_ratios': '()'}, 'merge_ratios is empty'),
  ('flash,2', {'eval.metrics': "('kid',)"}, 'is chosen by fd'),
  ('flash,2', {'eval.batch_size': 12}, 'eval.batch_size is 12'),
  ('flash,2', {'distill.stages': "('low,4','high,4')"}, 'at least three'),
  ('hybrid,2', {'train.batch_size': 12}, 'multiple of 8'),
])  # fmt: skip
def test_refused_in_one_line(teacher, tmp_path, argument, given, message):
  words = words_of(teacher, tmp_path / 'student', argument, **given)
  assert message in refused_line(*words)
  assert not (tmp_path / 'student').exists()


def test_a_teacher_without_a_null_label(teacher, tmp_path):
  """CFG needs the null label of the teacher, except at scale 1."""
  other = shutil.copytree(teacher, tmp_path / 'run')
  change_json(
    other / 'config.json', lambda c: c['objective'].update(label_dropout=0.0)
  )
  keys = {'objective.label_dropout': 0.0, 'data.dir': teacher.parent / 'data'}
  line = refused_line(*words_of(other, tmp_path / 'a', 'hybrid,2', **keys))
  assert 'guidance cfg needs the null label' in line
  keys |= {'distill.guidance': 'cfg:1', 'distill.teacher': other}
  file = f'{ROOT}/configs/distill/digits.py:hybrid,2'
  given = [f'{key}={value}' for key, value in (TINY | keys).items()]
  config = config_file.override(config_file.load_config(file), given)
  distilling.check(build_student(config.to_dict()))


def test_wrong_teachers(student, teacher, tmp_path):
  folder = tmp_path / 'int4'
  succeed('convert', f'--from={student}', f'--to={folder}', '--quantize=int4')
  keys = {'data.dir': teacher.parent / 'data'}
  for place, message in (
    (folder, 'holds int4 weights'),
    (tmp_path, 'is not the workdir of a run'),
  ):
    words = words_of(place, tmp_path / 'a', 'hybrid,2', **keys)
    assert message in refused_line(*words)


def test_data_that_are_not_the_teachers(teacher, tmp_path):
  """The data must have the same latent normalization as the teacher's data."""
  other = shutil.copytree(teacher, tmp_path / 'run')
  change_json(
    other / 'latents.json', lambda c: c['normalization'].update(std=[2.0])
  )
  keys = {'data.dir': teacher.parent / 'data'}
  line = refused_line(*words_of(other, tmp_path / 'a', 'sharing,2', **keys))
  assert 'the data have normalization' in line


def test_train_refuses_the_config_of_a_student(tmp_path):
  said = refusal('train', f'--config={ROOT}/configs/distill/digits.py:dm,2',
                 f'--workdir={tmp_path}/a')  # fmt: skip
  assert 'use the command distill' in said
