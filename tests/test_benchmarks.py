"""The benchmarks run at tiny sizes, and write tables and JSON files."""

import json
import subprocess
import sys

import pytest
from command_runs import ROOT

from benchmarks import profile

TINY = (
  '--config.model.depth=2', '--config.model.taps=(1,)',
  '--config.model.width=32', '--config.model.num_heads=2',
)  # fmt: skip
CASES = {
  'train_step': ('configs/digits.py', '--config.train.batch_size=8',
                 '--vary', 'model.remat', 'none', 'dots', '--rounds=1', *TINY),
  'sampling': ('configs/digits.py', '--batch_size=8', '--steps=2', '--rounds=1',
               '--methods', 'none', 'cfg:1.5', '--students', '1', *TINY),
  'compile_time': ('--config=configs/digits.py', '--depths', '4', '6',
                   '--unrolled'),
  'profile': ('configs/digits.py', '--config.train.batch_size=8', *TINY),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_tables_and_json(tmp_path, name):
  path = tmp_path / 'out.json'
  command = [sys.executable, '-m', f'benchmarks.{name}', *CASES[name]]
  done = subprocess.run(
    [*command, '--json', str(path)], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  written = json.loads(path.read_text())
  assert len(written['rows']) >= 2
  assert {'device', 'packages', 'command'} <= written.keys()
  table = [line for line in done.stdout.splitlines() if line.startswith('| ')]
  assert len(table) == 1 + len(written['rows'])


@pytest.mark.slow
def test_unknown_flags_are_refused():
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.train_step', '--no-such'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and '--no-such' in done.stderr


def test_kinds_of_operations():
  text = """
  %dot.4 = f32[8,6,256,64]{3,2,1,0} dot(%a), op_name="bhnm,bhmd->bhnd"
  ROOT %ynn.1 = f32[2048,384]{1,0} fusion(%b), op_name="jit/dot_general"
  %fill.2 = f32[12,2048,384]{2,1,0} broadcast(%c)
  %wrapped_broadcast.2 = f32[12,2048,384]{2,1,0} fusion(%c)
  %broadcast_divide_fusion.1 = f32[12,384,1152]{2,1,0} fusion(%c)
  %exp.3 = f32[8,6,256,256]{3,2,1,0} exponential(%d)
  %ynn_fusion.5 = f32[8,6,256,64]{3,2,1,0} fusion(%d), op_name="jit/reduce_sum"
  %copy.1 = f32[384,12]{0,1} copy(%e), op_name="jit/reshape"
  %add.1 = f32[12,2048,384]{2,1,0} add(%e, %f), op_name="jit/add"
"""
  found = {
    name: profile.kind_of(each)
    for name, each in profile.operations(text).items()
  }
  assert found == {
    'dot.4': 'attention',
    'ynn.1': 'products of layers',
    'fill.2': 'elementwise, sums, optimizer',
    'wrapped_broadcast.2': "the scan's stacks: filled, sliced, written",
    'broadcast_divide_fusion.1': 'elementwise, sums, optimizer',
    'exp.3': 'attention',
    'ynn_fusion.5': 'attention',
    'copy.1': 'copies and transposes',
    'add.1': 'elementwise, sums, optimizer',
  }
