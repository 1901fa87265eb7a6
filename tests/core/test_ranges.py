"""Every config key declares its valid values, and refuses all other values."""

import copy
import dataclasses
import typing

import ml_collections
import pytest
import refusals
from command_runs import DIGITS, ROOT, refused_line, run

from core import ranges
from core.errors import InputError
from core.nested import flatten
from distill.config import StudentExperiment, build_student
from evaluate.compare import CompareConfig
from train import config_file
from train.experiment import sections_of

SECTIONS = sections_of(StudentExperiment)
PLAIN = (int, float, str, bool)


def declared():
  """Yields (key, type, whether the value is a tuple of this type, rule)."""
  for section, kind in {'': StudentExperiment, **SECTIONS}.items():
    for name, declaration in ranges.declarations(kind).items():
      plain, rule = ranges.parts_of(declaration)
      many = typing.get_origin(plain) is tuple
      key = f'{section}.{name}'.removeprefix('.')
      yield key, typing.get_args(plain)[0] if many else plain, many, rule


KEYS = list(declared())


@pytest.fixture(scope='module')
def base():
  path = ROOT / 'configs/distill/base.py'
  return config_file.load_config(str(path)).to_dict()


def refused(config, *words):
  with refusals.refused(*words) as caught:
    build_student(config)
  assert str(caught.value).isprintable()


def changed(base, key, value):
  config = copy.deepcopy(base)
  *section, name = key.split('.')
  (config[section[0]] if section else config)[name] = value
  return config


@pytest.mark.parametrize(
  ('key', 'kind', 'many', 'rule'), KEYS, ids=[key for key, *_ in KEYS]
)
def test_every_number_has_finite_bounds(key, kind, many, rule):
  assert kind in PLAIN, 'core.ranges cannot check this type'
  if kind in (int, float):
    assert isinstance(rule, ranges.Range), f'{key} declares no range'
    assert rule.low < rule.high
    assert abs(rule.low) < float('inf') and rule.high < float('inf')
    # Some integers are numbers of images, which may exceed the int32 range.
    assert kind is float or rule.high <= 10**15


@pytest.mark.parametrize('section', SECTIONS)
def test_every_section_checks_its_fields(section):
  """Each section class checks its ranges, even when called without `build`."""
  kind = SECTIONS[section]
  key = next(key for key, *_ in KEYS if key.startswith(f'{section}.'))
  name = key.removeprefix(f'{section}.')
  values = {
    field.name: object()
    for field in dataclasses.fields(kind)
    if field.default is dataclasses.MISSING or field.name == name
  }
  with pytest.raises(InputError, match=key.replace('.', r'\.')):
    kind(**values)


@pytest.mark.parametrize(
  ('key', 'kind', 'many', 'rule'),
  [k for k in KEYS if isinstance(k[3], ranges.Range)],
  ids=[k[0] for k in KEYS if isinstance(k[3], ranges.Range)],
)
def test_numbers_out_of_range_are_refused(base, key, kind, many, rule):
  if key == 'model.patch':  # The model name sets the patch size.
    return
  above = rule.high + 1 if kind is int else rule.high * 1.01
  below = rule.low - 1 if kind is int else rule.low - 1e-3
  for value in (above, below, float('nan'), float('inf'), -float('inf'), 1e308):
    if key in ('model.depth', 'model.width', 'model.num_heads') and not value:
      continue  # 0 selects the default for the named model.
    refused(changed(base, key, (value,) if many else value), key, 'expected')
  for value in (None, 'three', {}, [[1]], True):
    refused(changed(base, key, (value,) if many else value), key)


@pytest.mark.parametrize(('key', 'value'), [
  ('data.name', '/abs'),
  ('data.name', '../up'),
  ('data.name', 'a/../../b'),
  ('data.name', '.'),
  ('data.name', ''),
  ('data.name', 'a\0b'),
  ('data.dir', '~\0'),
  ('data.name', 'a' * 300),
  ('data.train_split', '..'),
  ('data.test_split', 'a/b'),
  ('data.dir', 'a' * 5000),
  ('data.dir', '/'.join(['a' * 300, 'b'])),
  ('train.init_from', 'a' * 5000),
  ('distill.teacher', '\ud800'),
  ('eval.reference', 'a' * 5000),
  ('log.preview_guidance', 'ig:1.4,' * 1000),
])  # fmt: skip
def test_names_and_paths_that_no_folder_has_are_refused(base, key, value):
  refused(changed(base, key, value), key)


@pytest.mark.parametrize('methods', [('a' * 5000,), ('none',) * 1001, ('',)])
def test_guidance_that_is_too_long_or_empty_is_refused(methods):
  with pytest.raises(InputError, match=r'^--guidance '):
    CompareConfig(num=2, methods=methods, resamples=2)


@pytest.mark.parametrize('name', ['photos', 'imagenet_resized/32x32', 'a.b-c'])
def test_names_of_data_may_be_those_of_tfds(base, name):
  assert build_student(changed(base, 'data.name', name)).data.name == name


@pytest.mark.parametrize('split', ['.', '..', 'a/b', '/abs', '', 'a' * 300])
@pytest.mark.parametrize('more', ['--images=photos', '--verify'])
def test_prepare_writes_inside_its_folder(tmp_path, split, more):
  line = refused_line('prepare', f'--split={split}', more,
                      '--config.data.name=mine',
                      f'--config.data.dir={tmp_path}')  # fmt: skip
  assert '--split' in line
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('assignment', [
  'sample.shift=1e308',
  'sample.batch_size=0',
  'sample.batch_size=1000000000000',
  'objective.time_mean=1e308',
  'ema.widths=("a",1)',
  'model.depth=1e308',
  'train.batch_size=1e308',
  'model.num_classes=9223372036854775807',
  'optimizer.warmup_images=1000000000000000',
])  # fmt: skip
def test_senseless_values_end_a_dry_run_in_one_line(assignment):
  more = ['--config.train.batch_size=8'] * ('warmup' in assignment)
  result = run('train', DIGITS, '--dry_run', *more, f'--config.{assignment}')
  assert result.status == 2
  assert result.out == ''
  assert result.err.count('\n') == 1
  assert result.err.startswith(f'main.py: {assignment.partition("=")[0]} ')


def test_a_dry_run_answers_for_the_largest_network_that_is_allowed():
  result = run(
    'train', DIGITS, '--dry_run', '--config.model.depth=10000',
    '--config.model.width=65536', '--config.model.num_classes=1000000',
    '--config.model.mlp_ratio=1000', '--config.train.batch_size=1048576',
    '--config.train.images=1000000000000000',
  )  # fmt: skip
  assert (result.status, result.err) == (0, '')
  assert 'parameters' in result.out


@pytest.mark.parametrize('text', ['-' * 5000, '(' * 5000, '9' * 5000, '~' * 90])
def test_endless_text_is_no_value_of_any_key(base, text):
  config = ml_collections.ConfigDict(base)
  for key, default in flatten(base).items():
    if not isinstance(default, str):
      with refusals.refused('expected') as caught:
        config_file.override(config, [f'{key}={text}'])
      assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
  'flag',
  ['--num=1000000000000', '--seed=4294967296', '--step=99999999999',
   f'--out={"a" * 5000}', f'--num={"9" * 5000}'],
)  # fmt: skip
def test_flags_have_ranges_too(flag):
  line = refused_line('sample', '--workdir=x', flag)
  assert flag.partition('=')[0] in line and len(line) < 2099


@pytest.mark.parametrize('command', ['sample', 'report', 'compare'])
def test_a_workdir_of_a_name_too_long(command):
  refused_line(command, f'--workdir={"a" * 5000}')
