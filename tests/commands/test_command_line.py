"""The command line prints help and errors before it imports JAX or numpy."""

import re
import subprocess
import sys
import time

import pytest
from command_runs import ROOT, refusal, refused_line, run, succeed

from commands import convert as convert_command
from commands.flags import shared
from core import suggestions
from core.nested import flatten
from dit.weights import convert, quantize
from dit.weights.restore import WEIGHTS
from evaluate.metrics import METRICS
from evaluate.resize import PRESETS
from guidance.parse import NAMES
from sample.image_folder import FORMATS
from train.config_file import load_config

BASE = flatten(load_config('configs/base.py').to_dict())


def run_process(*argv):
  begin = time.monotonic()
  result = subprocess.run(
    [sys.executable, '-X', 'importtime', 'main.py', *argv],
    cwd=ROOT, capture_output=True, text=True, timeout=240,
  )  # fmt: skip
  return result, time.monotonic() - begin


@pytest.mark.parametrize('argv, status, words', [
  (['--help'], 0, 'python main.py train'),
  (['sample', '--help'], 0, '--guidance'),
  (['--version'], 0, 'selfguide'),
  ([], 2, 'no command'),
  (['train', '--wrkdir=x'], 2, "Did you mean '--workdir'"),
  (['sample', '--workdir=x', '--num=many'], 2, "'many'"),
  (['train', '--config.optimizer.lrr=1'], 2, "Did you mean 'optimizer.lr'"),
])  # fmt: skip
def test_help_and_wrong_flags_are_answered_before_jax_is_imported(
  argv, status, words
):
  result, seconds = run_process(*argv)
  imported = set(re.findall(r'\| +(\S+)$', result.stderr, re.M))
  heavy = {'jax', 'numpy', 'flax', 'orbax', 'matplotlib', 'sample', 'guidance'}
  assert {'argparse', 'commands.flags'} <= imported
  assert not heavy & imported
  assert result.returncode == status
  assert words in result.stdout + result.stderr
  assert seconds < 20  # Without parallel tests, the command takes about 1 s.


def test_version_names_the_project_and_its_libraries():
  out = succeed('--version').out
  for name in ('selfguide', 'jax', 'flax', 'optax', 'Python'):
    assert re.search(rf'\b{name} \d+\.\d+', out), name


def test_the_bare_command_prints_help():
  result = run()
  assert result.status == 2
  assert 'usage: main.py' in result.out
  assert 'python main.py sample' in result.out
  assert result.err.startswith('main.py: no command; the commands are prepare,')
  assert result.err.count('\n') == 1


def test_help_names_the_words_that_the_code_knows():
  assert set(shared.METHODS) <= set(NAMES)
  assert shared.METRICS == METRICS
  assert shared.RESIZES == PRESETS
  assert shared.FORMATS == FORMATS
  assert shared.WEIGHTS == tuple(WEIGHTS)
  assert shared.FAMILIES == (*convert.FAMILIES, convert_command.INCEPTION)
  assert shared.SCHEMES == tuple(quantize.SCHEMES)


@pytest.mark.parametrize('words, suggestion', [
  ('train --config.optimizer.learning_rate=1', "'optimizer.lr'"),
  ('train --config.train.steps=1', "'train.images' (images seen"),
  ('train --config.train.epochs=1', "'train.images' (images seen"),
  ('train --config.train.lr=1', "'optimizer.lr'"),
  ('train --config.model.patch=2', "'model.name' (FAMILY-SIZE/PATCH)"),
  ('train --epochs=1', "'--config.train.images' (images seen"),
  ('train --steps=1', "'--config.train.images' (images seen"),
  ('train -w x', "'--workdir'"),
  ('sample --workdir=x --cfg_scale=2', "'--guidance=cfg:SCALE'"),
  ('sample --workdir=x --cfg-scale=2', "'--guidance=cfg:SCALE'"),
  ('sample --workdir=x --guidance_scale=2', "'--guidance=cfg:SCALE'"),
  ('sample --workdir=x --num_inference_steps=2', "'--config.sample.steps'"),
  ('sample --workdir=x --steps=2', "'--config.sample.steps'"),
  ('sample --workdir=x --config.sample.num_steps=2', "'sample.steps'"),
  ('sample --ckpt=x', "'--workdir'"),
  ('sample --workdir=x --num_samples=2', "'--num'"),
  ('sample --workdir=x --outdir=y', "'--out'"),
  ('evaluate --samples=x --vae=y', "'--autoencoder'"),
  ('convert --ckpt=x --to=y', "'--from'"),
])  # fmt: skip
def test_words_of_other_tools_lead_to_ours(words, suggestion):
  result = run(*words.split())
  assert result.status == 2 and result.out == ''
  assert f'Did you mean {suggestion}' in result.err
  assert result.err.count('\n') == 1


@pytest.mark.parametrize(
  'words',
  ['train --config.optimizer.zzz=1', 'train --zebra=1', 'zebra', 'train -x'],
)
def test_nothing_is_suggested_where_nothing_is_near(words):
  assert 'Did you mean' not in refusal(*words.split())


@pytest.mark.parametrize('words, flag', [
  ('evaluate --samples=x --config.eval.extractor=y', '--extractor=y'),
  ('evaluate --workdir=x --config.eval.num=9', '--num=9'),
  ('reference --to=x --config.eval.reference=y', '--images=y'),
  ('sweep --workdir=x --guidance=ig:1..2 --config.eval.repeats=2',
   '--repeats=2'),
  ('compare --workdir=x --config.eval.extractor=y', '--extractor=y'),
  ('prepare --config.prepare.image_size=8', "'--image_size' (of prepare)"),
  ('compare --workdir=x --config.compare.methods=none',
   "'--guidance' (of compare, once for each method)"),
])  # fmt: skip
def test_a_setting_of_a_command_is_its_flag(words, flag):
  assert flag in refused_line(*words.split())


def test_every_flag_that_took_the_place_of_a_key_exists():
  for key, flag in suggestions.FLAGS.items():
    command = key.partition('.')[0]
    assert flag.partition(' ')[0] in run(command, '--help').out


def test_every_word_of_the_table_leads_to_something_that_exists():
  flags = {
    flag
    for command in ('prepare', 'train', 'sample', 'convert')
    for flag in re.findall(r'--[a-z_]+', run(command, '--help').out)
  }
  for suggested in suggestions.WORDS.values():
    for word in suggested:
      name = re.split('[= ]', word)[0]
      key = name.removeprefix('--config.')
      assert (key in BASE) if key != name else (name in flags), word


def test_a_dry_run_prints_only_keys_that_can_be_set():
  result = succeed('train', '--dry_run', '--config=configs/digits.py',
                   '--config.model.name=LightningDiT-Tiny/2')  # fmt: skip
  printed = dict(re.findall(r'^([a-z_.0-9]+) = (.*)$', result.out, re.M))
  assert printed.keys() == BASE.keys()
  assert printed['model.name'] == "'LightningDiT-Tiny/2'"


def test_without_the_hub_its_folders_are_refused(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  said = refusal('sample', '--folder=hf://org/name')
  assert 'pip install huggingface_hub' in said


@pytest.mark.parametrize(
  'place', ['s9://x', 'http://x/y', 'hf://x', 'x/' * 3000]
)
@pytest.mark.parametrize(
  'command, flag',
  [('train', '--workdir'), ('reference', '--to'), ('sample', '--out')],
)
def test_places_that_no_file_system_has_are_refused(place, command, flag):
  line = refused_line(command, f'{flag}={place}')
  assert f'argument {flag}: the value is' in line and len(line) < 399
