"""Wrong inputs give one line and exit status 2 before any compilation."""

import json
import pathlib

import jax
import pytest
from command_runs import DIGITS, run

from evaluate import classifier, compare
from sample import sampler
from train import config_file, loop, runs, workdir

ROOT = pathlib.Path(__file__).parents[2]
TINY = ('model.depth=3', 'model.width=16', 'model.num_heads=2',
        'model.taps=(1,)', 'train.batch_size=16')  # fmt: skip


@pytest.fixture(scope='module')
def compilations():
  events = []

  def listen(event, duration, **kwargs):
    del duration, kwargs
    if 'backend_compile' in event:
      events.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  jax.jit(lambda x: x + 41)(1.0)
  assert events, 'the event has another name now'
  return events


@pytest.fixture
def refused(tmp_path, compilations, monkeypatch):
  """Returns a function that checks the refusal of a command line."""

  def never(*args, **kwargs):
    raise AssertionError('went too far')

  monkeypatch.setattr(loop, 'make_train_step', never)
  monkeypatch.setattr(sampler, 'sample', never)
  monkeypatch.setattr(classifier, 'train_classifier', never)
  monkeypatch.setattr(compare, 'open_evaluators', never)

  def check(argv, *words):
    before = sorted(tmp_path.rglob('*'))
    compilations.clear()
    result = run(*argv)
    assert result.err.count('\n') == 1, result.err
    assert result.err.startswith('main.py: ')
    assert result.status == 2
    assert result.out == ''
    for word in words:
      assert word in result.err
    assert not compilations
    assert sorted(tmp_path.rglob('*')) == before

  return check


@pytest.fixture
def train(tmp_path, data_dir):

  def make(*changes, workdir=tmp_path / 'new'):
    assignments = (*TINY, f'data.dir={data_dir}', *changes)
    flags = [f'--config.{assignment}' for assignment in assignments]
    return ['train', DIGITS, f'--workdir={workdir}', *flags]

  return make


@pytest.fixture
def claim(tmp_path, data_dir):
  """Returns a function that creates the folder of a run without training."""

  def make(*changes):
    config = config_file.load_config(str(ROOT / 'configs/digits.py'))
    assignments = (*TINY, f'data.dir={data_dir}', *changes)
    config = config_file.override(config, assignments).to_dict()
    return workdir.claim(tmp_path / 'run', config)

  return make


@pytest.mark.parametrize('argv, words', [
  (['trian'], ["unknown command 'trian'", "Did you mean 'train'"]),
  (['smaple', '--workdir=x'], ["Did you mean 'sample'"]),
  (['train'], ['--workdir']),
  (['sample'], ['--workdir']),
  (['compare', '--seed=1'], ['--workdir']),
  (['train', '--workdir=x', '--stpes=3'], ['--stpes']),
  (['sample', '--workdir=x', '--nums=3'], ['--nums']),
  (['sample', '--workdir=x', '--num=many'], ['--num', "'many'"]),
  (['sample', '--workdir=x', '--num=0'], ['--num is 0']),
  (['sample', '--workdir=x', '--num=-2'], ['--num is -2']),
  (['sample', '--workdir=x', '--weights=avg'], ['--weights', "'avg'"]),
  (['sample', '--workdir=x', '--seed=-1'], ['--seed is -1']),
  (['sample', '--workdir=x', '--guidance=cgf:2'],
   ["unknown guidance method 'cgf'", "Did you mean 'cfg'"]),
  (['sample', '--workdir=x', '--guidance=cfg'], ["cannot read 'cfg'"]),
  (['sample', '--workdir=x', '--guidance=cfg:2@1-0'], ['interval 1-0']),
])  # fmt: skip
def test_bad_arguments(refused, argv, words):
  refused(argv, *words)


@pytest.mark.parametrize('assignment, words', [
  ('optimizer.lrr=1', ["key 'optimizer.lrr'", "mean 'optimizer.lr'"]),
  ('optimiser.lr=1', ["key 'optimiser.lr'", "mean 'optimizer.lr'"]),
  ('optimizer=1', ["key 'optimizer'"]),
  ('optimizer.lr', ['optimizer.lr needs a value']),
  ('optimizer.lr=fast', ["optimizer.lr is 'fast'", 'type float']),
  ('optimizer.lr=', ["optimizer.lr is ''", 'type float']),
  ('train.images=1e3x', ["train.images is '1e3x'", 'type int']),
  ('model.depth=2.5', ["model.depth is '2.5'", 'type int']),
  ('ema.ramp=3', ["ema.ramp is '3'", 'type bool']),
  ('train.images=true', ["train.images is 'true'", 'type int']),
  ('model.taps=one', ["model.taps is 'one'", 'type tuple']),
  ('model.taps=("one",)', ['model.taps']),
  ('model.taps=(1.5,)', ['model.taps']),
  ('objective.intermediate_weights=("half",)', ['intermediate_weights']),
  ('model.name=SiT-XXL/2', ["'SiT-XXL/2'", "Did you mean 'SiT-XL/2'"]),
  ('model.name=SiT-XL', ["'SiT-XL'", "Did you mean 'SiT-XL/2'"]),
  ('model.taps=(3,)', ['taps has 3', 'depth - 1 = 2']),
  ('model.taps=(0,)', ['taps has 0']),
  ('model.taps=(2,1)', ['rising order']),
  ('model.mlp_ratio=-1', ['model.mlp_ratio is -1']),
  ('optimizer.b1=1.5', ['optimizer.b1 is 1.5']),
  ('optimizer.eps=0', ['optimizer.eps is 0']),
  ('optimizer.lr=-1', ['optimizer.lr is -1']),
  ('optimizer.clip=-1', ['optimizer.clip is -1']),
  ('optimizer.warmup_images=-1', ['optimizer.warmup_images is -1']),
  ('optimizer.weight_decay=-1', ['optimizer.weight_decay is -1']),
  ('optimizer.schedule=cosin', ["Did you mean 'cosine'"]),
  ('optimizer.name=adam', ["Did you mean 'adamw'"]),
  ('optimizer.muon_dtype=bf16', ["Did you mean 'bfloat16'"]),
  ('optimizer.momentum=1.1', ['optimizer.momentum is 1.1']),
  ('ema.decay=-0.1', ['ema.decay']),
  ('ema.decay=1', ['ema.decay']),
  ('ema.widths=(0.3,)', ['ema.widths has']),
  ('ema.widths=(0.0,)', ['ema.widths has']),
  ('ema.widths=(0.1,0.1)', ['must be distinct']),
  ('ema.snapshot_images=-1', ['ema.snapshot_images is -1']),
  ('objective.label_dropout=1.1', ['label_dropout is 1.1']),
  ('objective.label_dropout=-0.1', ['label_dropout is -0.1']),
  ('objective.time_sampling=logitnormal', ["Did you mean 'logit_normal'"]),
  ('objective.cosine_weight=-0.5', ['cosine_weight is -0.5']),
  ('optimizer.lr=1e999', ['optimizer.lr']),
  ('train.images=1e999', ['train.images']),
  ('objective.time_std=-1', ['objective.time_std is -1']),
  ('data.threads=-1', ['data.threads is -1']),
  ('data.test_split=tset', ["no split 'tset'"]),
  ('log.every_images=-1', ['log.every_images is -1']),
  ('sample.steps=100000000000000', ['steps is 100000000000000']),
  ('mesh.data=-2', ['mesh.data is -2']),
  ('model.num_heads=3', ['width 16 is not divisible by model.num_heads 3']),
  ('model.size=16', ['records have shape (8, 8, 1)', '(16, 16, 1)']),
  ('model.num_classes=5', ['num_classes']),
  ('model.dtype=float16', ["model.dtype is 'float16'"]),
  ('train.batch_size=12', ['train.batch_size is 12', '8 devices']),
  ('train.batch_size=0', ['train.batch_size is 0']),
  ('train.images=0', ['train.images is 0']),
  ('train.max_bad_steps=0', ['train.max_bad_steps is 0']),
  ('checkpoint.keep=0', ['checkpoint.keep']),
  ('checkpoint.every_images=0', ['checkpoint.every_images']),
  ('objective.intermediate_weights=(1,2,3)', ['3 values for 1 taps']),
  ('log.preview_num=0', ['preview_num']),
  ('model.taps=()', ['needs tap 0']),
  ('seed=-1', ['seed is -1']),
  ('mesh.fsdp=3', ['fsdp=3', '8 devices']),
  ('mesh.data=16', ['data=16', '8 devices']),
  ('mesh.fsdp=-1', ['at most one may be -1']),
  ('data.name=cifar10', ["no data: 'cifar10' is not prepared"]),
  ('data.name=cifar11', ["'cifar11' is neither"]),
  ('data.train_split=trian', ["no split 'trian'"]),
  ('log.preview_guidance=igg:2', ["'igg'", "Did you mean 'ig'"]),
  ('sample.solver=hune', ["'hune'", "Did you mean 'heun'"]),
  ('objective.path=liner', ["'liner'", "Did you mean 'linear'"]),
])  # fmt: skip
def test_bad_config(refused, train, assignment, words):
  refused(train(assignment), *words)


@pytest.mark.parametrize('name', ['configs/digts.py', 'configs', 'digits'])
def test_missing_config_file(refused, tmp_path, name, monkeypatch):
  monkeypatch.chdir(ROOT)
  argv = ['train', f'--config={name}', f'--workdir={tmp_path}/new']
  refused(argv, f'{name!r} not found', 'configs/digits.py')


def test_config_file_without_a_config(refused, tmp_path):
  (tmp_path / 'mine.py').write_text('x = 1\n')
  config, place = f'--config={tmp_path}/mine.py', f'--workdir={tmp_path}/new'
  refused(['train', config, place], 'mine.py', 'get_config')


def test_argument_that_a_config_does_not_take(refused, train):
  command, config, *rest = train()
  refused([command, f'{config}:XL/2', *rest], 'XL/2')


def test_workdir_of_another_config(refused, claim, train):
  argv = train('optimizer.lr=0.5', 'seed=3', workdir=claim())
  changes = 'optimizer.lr: 0.003 -> 0.5; seed: 0 -> 3'
  refused(argv, 'holds another config', changes)


@pytest.mark.parametrize('below', ['', 'run'])
def test_unwritable_workdir(refused, tmp_path, train, below):
  (tmp_path / 'file').touch()
  refused(train(workdir=tmp_path / 'file' / below), 'cannot be written')


@pytest.mark.parametrize('command', ['sample', 'compare'])
def test_folder_that_is_no_run(refused, tmp_path, command):
  for folder in (tmp_path, tmp_path / 'missing'):
    refused([command, f'--workdir={folder}'], 'not the workdir of a run')


@pytest.mark.parametrize('command', ['sample', 'compare'])
def test_run_without_checkpoint(refused, claim, command):
  refused([command, f'--workdir={claim()}'], 'no checkpoint', 'train first')


@pytest.mark.parametrize('command, taps, guidance, words', [
  ('sample', '()', ['ig:1.5'], ['ig needs tap 0', 'network has 0']),
  ('sample', '(1,)', ['s2:2:skip=2'], ['s2 with skip=2']),
  ('compare', '()', ['cfg:2', 'ig:2'], ['ig needs tap 0']),
])  # fmt: skip
def test_guidance_needs_its_parts(
  refused, claim, command, taps, guidance, words
):
  flags = [f'--guidance={text}' for text in guidance]
  refused([command, f'--workdir={claim(f"model.taps={taps}")}', *flags], *words)


@pytest.mark.parametrize('flag, words', [
  ('--guidance=s3:2', ["'s3'", "Did you mean 's2'"]),
  ('--guidance=', ["--guidance is ''"]),
  ('--num=1', ['--num is 1']),
  ('--bootstrap=1', ['--bootstrap is 1']),
  ('--config.compare.num=9', ["'compare.num'", "'--num' (of compare)"]),
])  # fmt: skip
def test_bad_flags_of_compare(refused, claim, flag, words):
  refused(['compare', f'--workdir={claim()}', flag], *words)


@pytest.mark.parametrize(
  'labels', ['all', '10', '-1', '3,', '3;4', '99999999999999999999']
)
def test_bad_labels(refused, claim, labels):
  argv = ['sample', f'--workdir={claim()}', f'--labels={labels}']
  refused(argv, f"labels '{labels}'")


@pytest.mark.parametrize('assignment, words', [
  ('model.depth=4', ['model.depth belongs to the run', 'sample']),
  ('sample.step=4', ["'sample.step'", "Did you mean 'sample.steps'"]),
  ('sample.steps=0', ['steps is 0']),
  ('sample.batch_size=12', ['sample.batch_size is 12']),
  ('sample.solver=hune', ["Did you mean 'heun'"]),
  ('compare.num=1', ["'compare.num'"]),
])  # fmt: skip
def test_bad_config_of_a_run(refused, claim, assignment, words):
  argv = ['sample', f'--workdir={claim()}', f'--config.{assignment}']
  refused(argv, *words)


@pytest.mark.parametrize('command', ['sample', 'compare'])
def test_unwritable_results(refused, claim, tmp_path, monkeypatch, command):
  monkeypatch.setattr(runs, 'checkpoint_step', lambda *args: 1)
  (tmp_path / 'file').touch()
  argv = [command, f'--workdir={claim()}', f'--out={tmp_path}/file/out']
  refused(argv, 'cannot be written')


def test_empty_tuple_of_a_run_may_be_filled(refused, claim):
  argv = ['sweep', f'--workdir={claim("eval.metrics=()")}']
  argv += ['--guidance=ig:1..2:2', "--config.eval.metrics=('fdd',)"]
  refused(argv, "'fdd'")


def test_damaged_config_of_a_run(refused, claim):
  folder = claim()
  (folder / 'config.json').write_text('{"seed": 0, "mod')
  refused(['sample', f'--workdir={folder}'], 'config.json is damaged')


def test_config_of_another_version(refused, claim):
  folder = claim()
  config = json.loads((folder / 'config.json').read_text())
  del config['ema']['ramp']
  (folder / 'config.json').write_text(json.dumps(config))
  refused(['sample', f'--workdir={folder}'], 'ema', 'ramp')


def test_foreign_configs_are_not_run(tmp_path, monkeypatch):
  """`configs/base.py` means our file, not one in the working directory."""
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs/base.py').write_text(
    'import ml_collections\n'
    'def get_config(): return ml_collections.ConfigDict({"theirs": 1})\n'
  )
  (tmp_path / 'mine.py').write_text((ROOT / 'configs/digits.py').read_text())
  monkeypatch.chdir(tmp_path)
  assert 'model' in config_file.load_config('configs/base.py')
  for path in ('./configs/base.py', str(tmp_path / 'configs/base.py')):
    assert config_file.load_config(path).to_dict() == {'theirs': 1}
  assert config_file.load_config('mine.py').model
