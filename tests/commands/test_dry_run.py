"""Tests the report of a dry run, and the collectives in programs for TPUs."""

import os
import re
import subprocess
import sys

import command_runs
import jax
import pytest

from commands import hlo
from dit import model
from train import config_file
from train.experiment import build

# The blocks are as wide as a TPU's tiles. A separate process compiles them,
# because a process can load libtpu only once.
WIDE = (
  'model.name=SiT-Tiny/2', 'model.depth=6', 'model.width=512',
  'model.num_heads=8', 'train.batch_size=64',
)  # fmt: skip
PROGRAM = """
import sys, jax
from commands import dry_run
from train import config_file
from train.experiment import build
config = config_file.load_config('configs/sit.py:Tiny/2,ig')
experiment = build(config_file.override(config, sys.argv[2:]).to_dict())
experiment, mesh = dry_run.placed(experiment, sys.argv[1])
step, *shapes = dry_run.train_program(experiment, mesh)
with jax.set_mesh(mesh):
  print(step.lower(*shapes).compile().as_text())
"""


def dry_run(*words):
  return command_runs.succeed(*words, '--dry_run').out


def test_train_says_what_it_would_be(tmp_path):
  out = dry_run('train', f'--workdir={tmp_path}/run', '--config.mesh.fsdp=8',
                '--config=configs/sit.py:XL/2,ig')  # fmt: skip
  assert not list(tmp_path.iterdir())
  assert '677,786,144 parameters' in out  # This count is published.
  assert '118.62 G multiply-adds' in out
  assert 'optimizer.lr = 0.0001' in out
  assert "'fsdp': 8" in out
  # 677,786,144 parameters at 16 bytes, sharded over 8 devices, take 1.26 GiB.
  assert 'in all 1.26' in out or 'in all 1.27' in out


def test_published_multiply_adds():
  """Multiply-adds match table 4 of the DiT paper (arXiv 2212.09748)."""
  for name, expected in (('S/2', 6.06), ('B/2', 23.01), ('XL/2', 118.64)):
    config = config_file.load_config(f'configs/dit.py:{name}')
    ours = build(config.to_dict()).model.pass_multiply_adds
    assert ours / 1e9 == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize('name', ['sit.py:S/2,ig', 'lightningdit.py:B/1,ig'])
def test_multiply_adds_are_those_that_the_compiler_counts(name):
  """Blocks are unrolled here, because XLA counts the body of a loop once."""
  given = ['model.scan=False', 'model.depth=3', 'model.taps=(2,)']
  config = config_file.load_config(f'configs/{name}')
  network = build(config_file.override(config, given).to_dict()).model
  x = jax.ShapeDtypeStruct((2, *network.latent_shape), 'float32')
  t, label = (jax.ShapeDtypeStruct((2,), d) for d in ('float32', 'int32'))
  lowered = jax.jit(
    lambda params, *args: model.bind(network, params)(*args)
  ).lower(model.shapes(network), x, t, label)
  counted = lowered.cost_analysis()['flops'] / 2  # FLOPs per image
  # The compiler also counts norms, softmax and other small operations.
  assert 1 < counted / (2 * network.pass_multiply_adds) < 1.02


def test_sample_says_what_it_would_be():
  out = dry_run('sample', '--config=configs/sit.py:XL/2,ig',
                '--preset=sit_xl_ig_cfg')  # fmt: skip
  assert 'guidance ig:1.4,cfg:1.35@0-0.7' in out
  assert '250 steps of euler_maruyama' in out
  assert 'NFE 4' in out


@pytest.mark.parametrize(('words', 'message'), [
  (['train', '--topology=v5e:4x4', '--workdir=x'], 'is for --dry_run'),
  (['train'], '--workdir, the folder of the run'),
  (['sample', '--config=configs/digits.py'], 'is for --dry_run'),
  (['train', '--dry_run', '--config=configs/sit.py', '--config.mesh.fsdp=3'],
   'does not use the'),
])  # fmt: skip
def test_misuse(words, message):
  assert message in command_runs.refusal(*words)


def test_unknown_topology():
  pytest.importorskip('libtpu', reason='libtpu is not installed')
  result = subprocess.run(
    [sys.executable, 'main.py', 'train', '--dry_run', '--topology=v5e:5x7'],
    cwd=command_runs.ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert result.returncode == 2
  assert '--topology=v5e:5x7 is not available' in result.stderr


def test_collectives_of_a_loop_count_as_often_as_it_runs():
  text = """
%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %g = bf16[4,16]{1,0} all-gather(%x), replica_groups={{0,1}}, dimensions={0}
  %s = f32[2]{0} reduce-scatter(%y), replica_groups={{0,1,2,3}}, dimensions={0}
}

%cond.1 (p: (s32[], f32[8])) -> pred[] {
  %c = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%cond.1, body=%body.1
  %r = (f32[8]{0}, f32[]) all-reduce(%a, %b), to_apply=%add
  %t2 = (f32[4]{0}, f32[8]{0}) all-gather-start(%z), dimensions={0}
  %d = f32[8]{0} all-gather-done(%t2)
}
"""
  assert hlo.collectives(text) == {
    'all-gather': (8, 7 * 4 * 16 * 2 + 32),
    'reduce-scatter': (7, 7 * 4 * 2 * 4),
    'all-reduce': (1, 36),
  }


def compiled(topology, *assignments):
  pytest.importorskip('libtpu', reason='libtpu is not installed')
  result = subprocess.run(
    [sys.executable, '-c', PROGRAM, topology, *WIDE, *assignments],
    cwd=command_runs.ROOT, capture_output=True, text=True, timeout=600,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )  # fmt: skip
  assert result.returncode == 0, result.stderr[-2000:]
  return result.stdout


def gathers(text):
  """Returns (shape, whether in a loop) of each all-gather."""
  return [
    (shape, '/while/' in line)
    for line in text.splitlines()
    for shape in re.findall(r'= \(?\w+\[([\d,]*)\]\S* all-gather', line)
  ]


def sides(shape):
  return sorted(int(side) for side in shape.split(',') if side not in ('', '1'))


def test_fsdp_gathers_block_by_block():
  text = compiled('v5e:4x4', 'mesh.data=1', 'mesh.fsdp=16')
  assert text
  config = config_file.load_config('configs/sit.py:Tiny/2,ig')
  config = build(config_file.override(config, WIDE).to_dict()).model
  kernels = {
    tuple(sorted(leaf.shape[1:]))
    for leaf in jax.tree.leaves(model.shapes(config)['blocks'])
    if len(leaf.shape) == 3
  }
  found = {tuple(sides(shape)) for shape, in_loop in gathers(text) if in_loop}
  assert kernels <= found
  # No all-gather returns the kernels of all blocks. Each all-gather in a loop
  # returns the kernel of one block, never activations.
  assert not [s for s, _ in gathers(text) if config.depth in sides(s)]
  assert found <= kernels
  assert 'all-to-all' not in hlo.collectives(text)
  # All-reduces transfer less than half as many bytes as the gradients have.
  total = sum(leaf.size for leaf in jax.tree.leaves(model.shapes(config)))
  reduced = hlo.collectives(text).get('all-reduce', (0, 0))[1]
  assert reduced < 4 * total / 2


def test_data_parallelism_gathers_no_parameters():
  sent = hlo.collectives(compiled('v5e:4x4'))
  assert set(sent) == {'all-reduce'}
