"""Every input accepts random text, or refuses the text in a one-line error."""

import copy
import json
import warnings

import ml_collections
import pytest
from command_runs import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import cli
from core.errors import InputError
from core.files import parse_json
from core.nested import flatten
from distill.config import build_student
from dit.autoencoder import AUTOENCODERS
from dit.autoencoder.files import read_autoencoder
from dit.path import PATHS, path_named
from evaluate.extractor_registry import kind_of
from evaluate.sweep import SweepGrid
from guidance import parse
from guidance.parse import NAMES, describe
from sample.ddpm import discrete_grid
from sample.generate import plan_labels
from sample.grid import SPACINGS, make_grid
from sample.registry import SOLVERS, make_solver
from train import experiment
from train.config_file import load_config, override
from train.runs import Source

COUNTS = [
  pytest.param(100, id='quick'),
  pytest.param(10_000, id='thorough', marks=pytest.mark.slow),
]
PIECES = (
  '-', '+', '.', ',', ':', '@', '=', '*', '..', '/', '../', '~', '(', ')', '[',
  '{', '"', "'", '0', '1', '2', '0.7', '9' * 20, '1e999', '1e308', '1e-320',
  'nan', 'inf', 'None', 'true', 'False', 'auto', '0x', '_', ' ', '\n', '\r',
  '\0', '\x1b[31m', '\u2028', '\ud800', '\udcff', '\u00b2', '\u0663', 'a',
)  # fmt: skip


def repeated(piece, times):
  """Repeats a string. Limits the result to about 20,000 characters."""
  return piece * min(times, 20_000 // max(len(piece), 1) + 1)


def texts(*words):
  """Returns a strategy for random texts, many of them built from `words`."""
  pieces = st.sampled_from([*PIECES, *words])
  return st.one_of(
    st.sampled_from(words or PIECES),
    st.lists(pieces, max_size=12).map(''.join),
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(repr),
    st.builds(repeated, pieces, st.integers(1, 6000)),
    values.map(repr),
    st.lists(values, max_size=5).map(lambda items: repr(tuple(items))),
  )


values = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.integers(-3, 3)
  | st.sampled_from([2**31, 2**63, 10**400, -(10**18)])
  | st.floats()
  | st.text(max_size=8),
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3)
  ),
  max_leaves=6,
)


def every(count, strategy, action):
  """Runs `action` on `count` examples, and allows only one-line errors."""

  @settings(
    max_examples=count,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(strategy)
  def one(example):
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('error')
        action(example)
    except InputError as error:
      message = str(error)
      assert message and message.isprintable(), message
      assert len(message) <= 2000, message

  one()


def build(config):
  student = 'distill' in config
  return build_student(config) if student else experiment.build(config)


@pytest.fixture(scope='module')
def configs():
  names = ('distill/base', 'digits', 'dit', 'distill/digits')
  files = (str(ROOT / f'configs/{name}.py') for name in names)
  return [load_config(file).to_dict() for file in files]


@pytest.mark.parametrize('count', COUNTS)
def test_any_text_for_any_config_key(configs, count):
  keys = sorted(flatten(configs[0]))
  defaults = {key: str(value) for key, value in flatten(configs[0]).items()}
  words = sorted({*defaults.values(), *NAMES, *SOLVERS, *SPACINGS})
  value = st.one_of(
    texts(*words),
    st.integers(0, 64).map(str),  # Many keys accept small integers.
    st.floats(0, 2).map(repr),
    st.lists(st.integers(1, 9), max_size=3).map(repr),
  )
  assignments = st.lists(
    st.tuples(st.sampled_from(keys), value), min_size=1, max_size=2
  )

  def action(example):
    which, changes = example
    config = ml_collections.ConfigDict(configs[which]).lock()
    changed = override(config, [f'{key}={text}' for key, text in changes])
    built = build(changed.to_dict())
    assert build(json.loads(json.dumps(changed.to_dict()))) == built

  which = st.integers(0, len(configs) - 1)
  every(count, st.tuples(which, assignments), action)


@pytest.mark.parametrize('count', COUNTS)
def test_any_value_in_the_config_of_a_run(configs, count):
  keys = sorted(flatten(configs[0]))

  def action(example):
    key, value = example
    config = copy.deepcopy(configs[0])
    *section, name = key.split('.')
    (config[section[0]] if section else config)[name] = value
    build(config)

  some = st.tuples(st.sampled_from([*keys, *configs[0]]), values)
  every(count, some, action)


@pytest.mark.parametrize('count', COUNTS)
def test_any_text_for_guidance(count):
  words = (
    *NAMES, *(f'{name}:1.5' for name in NAMES), ':schedule=', ':power=',
    'cosine', ':tap=', ':skip=', ':masks=', ':exclude=', ':norm=', ':eta=',
    ':momentum=', ':zero_steps=', ':guided_channels=', '@0-0.7', 'ig:1..2:6',
    'cfg:1..2:1000', ',cfg:1..2:999999999999',
  )  # fmt: skip

  def action(text):
    guidance = parse(text)
    assert parse(describe(guidance)) == guidance

  every(count, texts(*words), action)
  every(count, texts(*words), lambda text: SweepGrid.of(text).texts())


@pytest.mark.parametrize('count', COUNTS)
def test_any_text_for_solver_and_grid(count):
  words = (
    *SOLVERS, ':eta=', ':clip=', ':norm=', ':final_step=', ':rtol=', ':atol=',
    ':max_steps=', ':order=', ':variance=', ':diffusion=', 'true', 'mean',
  )  # fmt: skip
  paths = [path_named(name) for name in PATHS]
  pairs = st.tuples(texts(*words), st.sampled_from(paths))
  every(count, pairs, lambda pair: make_solver(*pair))
  spacings = (*SPACINGS, '1,', ',0', '1,0.5,0', '1,1e-60,0', '1,nan,0')
  every(count, texts(*spacings), lambda text: make_grid(9, spacing=text))
  respacings = ('ddim', 'ddim50', '250', '10,10', '1000', '5,' * 2000)
  every(count, texts(*respacings), discrete_grid)


@pytest.mark.parametrize('count', COUNTS)
def test_any_text_for_labels(count):
  words = ('balanced', '3', '3,5', '9,', '3,5,' * 10**3, '4294967296')
  every(count, texts(*words), lambda text: plan_labels(text, 12, 10, 0))


@pytest.mark.parametrize('count', COUNTS)
def test_any_text_for_files_and_names(tmp_path, monkeypatch, count):
  monkeypatch.chdir(tmp_path)
  words = (
    *AUTOENCODERS, 'sd_vae:', 'inception:', 'classifier:', '.py:', '.pt',
    '.safetensors', 'ema:', '~nobody',
  )  # fmt: skip
  some = texts(*words)
  every(count, some, kind_of)
  every(count, some, lambda text: read_autoencoder(text, None, 'decoder'))
  every(count, some, lambda text: Source(text, True).open(()))
  every(count, some, lambda text: Source('run', True, text))


@pytest.mark.parametrize('count', COUNTS)
def test_any_word_on_the_command_line(count):
  commands = ('train', 'sample', 'compare', 'sweep', 'evaluate', 'convert')
  flags = (
    '--workdir', '--num', '--seed', '--step', '--labels', '--guidance', '-w',
    '--weights', '--out', '--metrics', '--taps', '--from', '--to', '--steps',
  )  # fmt: skip
  word = st.one_of(
    texts(*flags),
    st.builds('{}={}'.format, st.sampled_from(flags), texts()),
    st.builds('--config.{}={}'.format, texts('sample.steps'), texts()),
  )
  words = st.lists(word, max_size=3)
  lines = st.builds(lambda c, w: [c, *w], st.sampled_from(commands), words)

  def action(argv):
    if not {'-h', '--help'} & {*argv}:
      cli.parse_args(argv, '')

  every(count, lines, action)


@pytest.mark.parametrize('count', COUNTS)
def test_any_json(count):
  words = ('[', '{"a":', '1' * 400, '-', '1' * 5000, '{"a":1}', 'NaN', ']', '}')

  def action(text):
    try:
      value = parse_json(text)
    except ValueError as error:
      assert str(error)
    else:
      json.dumps(value)

  every(count, texts(*words), action)
