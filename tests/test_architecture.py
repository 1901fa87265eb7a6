"""Checks that the source code follows the project's rules."""

import ast
import dataclasses
import itertools
import re
import subprocess
import sys

import pytest
from command_runs import ROOT

from core.nested import flatten
from distill.config import StudentExperiment, build_student
from train import config_file
from train.experiment import SECTIONS, Experiment, build, sections_of

# Each folder may import from itself and from folders in later rows.
LAYERS = (
  ('main',),
  ('commands',),
  ('distill',),
  ('train',),
  ('evaluate',),
  ('sample', 'input_pipeline'),
  ('guidance',),
  ('dit',),
  ('core',),
)
ROOMS = tuple(itertools.chain(*LAYERS))
CLOSED = {'main', 'configs'}  # Folders in LAYERS may not import these.
FOREIGN = ('tensorflow', 'torch')
# Only this function, which reads pickles, may import torch.
TORCH_READER = ('dit/weights/files.py', '_read_pickle')
FENCED = ('jit', 'grad', 'value_and_grad', 'scan', 'vmap', 'pmap', 'remat',
          'cond', 'while_loop', 'Optimizer', 'Dropout')  # fmt: skip
FOLDERS = (*ROOMS[1:], 'configs', 'benchmarks', 'experiments', 'tests')


def name_of(path):
  return str(path.relative_to(ROOT))


def room_of(path):
  return path.relative_to(ROOT).with_suffix('').parts[0]


FILES = [ROOT / 'main.py']
for folder in FOLDERS:
  FILES += sorted((ROOT / folder).rglob('*.py'))
HOUSE = [path for path in FILES if room_of(path) != 'tests']
LIBRARY = [
  path for path in HOUSE if room_of(path) not in ('benchmarks', 'experiments')
]


def tree_of(path):
  return ast.parse(path.read_text(), name_of(path))


def imported(tree):
  """Yields the top-level name of every module that a file imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name.split('.')[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'relative import in line {node.lineno}'
      yield node.module.split('.')[0]


def dotted(node):
  """Returns an attribute chain as 'a.b.c', and '' for any other node."""
  parts = []
  while isinstance(node, ast.Attribute):
    parts.append(node.attr)
    node = node.value
  if not isinstance(node, ast.Name):
    return ''
  return '.'.join([node.id, *reversed(parts)])


def used(tree):
  """Yields the dotted names of attribute chains and from-imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      yield dotted(node) or f'?.{node.attr}'
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield f'{node.module}.{alias.name}'


def test_rooms_are_found():
  assert {room_of(path) for path in LIBRARY} == {*ROOMS, 'configs'}
  assert len(LIBRARY) > 40


@pytest.mark.parametrize('path', LIBRARY, ids=name_of)
def test_imports_run_one_way(path):
  names = set(imported(tree_of(path)))
  room = room_of(path)
  if room == 'configs':
    assert names <= {'ml_collections', 'configs'}
    return
  (row,) = (k for k, layer in enumerate(LAYERS) if room in layer)
  allowed = {room, *itertools.chain(*LAYERS[row + 1 :])}
  assert names & set(ROOMS) <= allowed
  assert not names & (CLOSED | {'tests', 'benchmarks', 'experiments'})


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_no_file_is_long(path):
  assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize('path', LIBRARY, ids=name_of)
def test_no_foreign_framework_is_imported(path):
  tree, foreign = tree_of(path), {*FOREIGN, 'keras'}
  if name_of(path) == TORCH_READER[0]:
    (reader,) = (
      node
      for node in tree.body
      if isinstance(node, ast.FunctionDef) and node.name == TORCH_READER[1]
    )
    assert set(imported(reader)) & foreign == {'torch'}
    tree.body.remove(reader)
  assert not set(imported(tree)) & foreign


@pytest.mark.parametrize('path', HOUSE, ids=name_of)
def test_nnx_stays_behind_its_fence(path):
  for name in used(tree_of(path)):
    *owners, last = name.split('.')
    assert not ('nnx' in owners and last in FENCED), name
    assert last not in ('pmap', 'sow'), name


@pytest.mark.parametrize('path', LIBRARY, ids=name_of)
def test_modules_only_define(path):
  """Modules contain only imports, definitions and constants."""
  first, *rest = tree_of(path).body
  assert isinstance(first, ast.Expr), 'no docstring'
  assert isinstance(first.value, ast.Constant), 'no docstring'
  for node in rest:
    if isinstance(node, ast.If):
      assert ast.unparse(node.test) == "__name__ == '__main__'"
      assert room_of(path) == 'main'
    else:
      assert isinstance(
        node,
        ast.Import
        | ast.ImportFrom
        | ast.Assign
        | ast.AnnAssign
        | ast.FunctionDef
        | ast.ClassDef,
      ), f'line {node.lineno}: {ast.unparse(node)}'


def public_functions(path):
  for node in tree_of(path).body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      yield node


@pytest.mark.parametrize(
  'path', [f for f in LIBRARY if room_of(f) in ROOMS[1:]], ids=name_of
)
def test_public_functions_are_annotated(path):
  for function in public_functions(path):
    arguments = function.args
    bare = [
      argument.arg
      for argument in (
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        *filter(None, (arguments.vararg, arguments.kwarg)),
      )
      if argument.annotation is None
    ]
    assert not bare, f'{function.name}: {bare}'
    assert function.returns is not None, function.name


def test_import_is_quiet_light_and_touches_no_device():
  """Importing the project must not import TensorFlow or PyTorch."""
  code = f"""
import sys, traceback
asked = []
class Finder:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {FOREIGN}:
      frames = traceback.extract_stack()
      files = [f.filename for f in frames if "<" not in f.filename]
      asked.append(name + " by " + files[-1])
      raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Finder())
import train.loop, evaluate.compare, main
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert not asked, asked
"""
  result = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=240,
  )
  assert result.returncode == 0, result.stderr
  assert (result.stdout, result.stderr) == ('', '')


def base_config(folder='configs'):
  return config_file.load_config(str(ROOT / folder / 'base.py')).to_dict()


@pytest.mark.parametrize('section', sections_of(StudentExperiment))
def test_config_keys_are_fields(section):
  keys = set(base_config('configs/distill')[section])
  kind = sections_of(StudentExperiment)[section]
  fields = {field.name for field in dataclasses.fields(kind)}
  if section == 'model':  # A name like 'SiT-Tiny/2' sets the patch size.
    assert 'name' in keys
    keys = keys - {'name'} | {'patch'}
  assert keys == fields


def test_config_sections_are_parts_of_an_experiment():
  parts = {field.name for field in dataclasses.fields(Experiment)}
  assert set(base_config()) == parts == {'seed', *SECTIONS}
  assert set(base_config('configs/distill')) == parts | {'distill'}


@pytest.mark.parametrize(
  'path',
  [
    f
    for f in FILES
    if room_of(f) == 'configs' and f.name not in ('__init__.py', 'presets.py')
  ],
  ids=name_of,
)
def test_configs_change_values_only(path):
  config = config_file.load_config(str(path)).to_dict()
  base = base_config(path.parent)
  assert flatten(config).keys() == flatten(base).keys()
  (build_student if 'distill' in base else build)(config)


@pytest.mark.parametrize('folder', ['configs', 'configs/distill'])
def test_every_config_key_is_explained(folder):
  """Each key in base.py has a comment, above the key or on the same line."""
  lines = (ROOT / folder / 'base.py').read_text().splitlines()
  assert len(lines) <= 250
  for before, line in itertools.pairwise(map(str.strip, lines)):
    if re.match(r'\w+\.\w+ = ', line) and 'ConfigDict()' not in line:
      assert before.startswith('#') != ('  # ' in line), line
