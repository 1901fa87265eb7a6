"""The Python code in docs/ runs on small networks."""

import os
import re
import shutil
import subprocess
import sys

import convnet
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from command_runs import ROOT
from PIL import Image

from dit import autoencoder
from dit.weights import convert, folder
from guidance import Guidance, Scale, parse
from sample import sampler
from sample.grid import make_grid
from sample.solvers import RK4


@pytest.mark.slow
def test_from_a_folder_to_pictures(tmp_path, monkeypatch):
  text = (ROOT / 'docs' / 'checkpoints.md').read_text()
  (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  config, params = convert.from_published(
    reference.read('ig_sit/model.safetensors'),
    family='ig_sit',
    num_heads=4,
    taps=(2,),
  )
  monkeypatch.chdir(tmp_path)
  folder.save_folder('sit-xl-ig', config, params, info={})
  # The golden autoencoder has few channels, so its norms have eight groups.
  tensors = {}
  for half in ('encoder', 'decoder'):
    tensors |= reference.read(f'sd_vae/{half}.safetensors')
  folder.save_tensors('sd-vae-ft-ema.safetensors', tensors)
  load = autoencoder.load
  monkeypatch.setattr(
    autoencoder, 'load', lambda *args: load(*args, norm_groups=8)
  )
  code = code.replace('make_grid(250', 'make_grid(4')  # fewer steps
  exec(compile(code, 'docs/checkpoints.md', 'exec'), {})
  with Image.open('samples.png') as image:
    picture = np.asarray(image)
  assert picture.shape[0] > 2 * 64 and picture.shape[-1] == 3
  assert picture.std() > 10


@pytest.mark.slow
def test_what_is_added_to_the_house():
  """The method, solver and backbone of extending.md work as the page claims."""
  text = (ROOT / 'docs' / 'extending.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  assert len(blocks) == 6
  *short, backbone = blocks
  assert max(block.count('\n') for block in short) < 40
  assert backbone.count('\n') < 80
  page = {}
  for block in blocks:
    exec(compile(block, 'docs/extending.md', 'exec'), page)

  # Samples of the trained backbone must have the means of the two data classes.
  means = np.asarray(page['x0']).reshape(32, 2, 2).mean(0)
  np.testing.assert_allclose(means[0], -2, atol=0.4)
  np.testing.assert_allclose(means[1], 2, atol=0.4)

  ralston = page['Ralston']()

  def drawn(guidance, solver=ralston, steps=20):
    return sampler.sample(
      page['Perceptron'](page['params']),
      guidance,
      page['row'] % 2,
      page['row'],
      jnp.asarray(make_grid(steps)),
      0,
      sampler.Integration(solver, (1, 1, 2)),
    )[0]

  # With a huge radius, the method equals CFG. A radius of 0 turns guidance off.
  def clipped(radius):
    return drawn(Guidance(terms=(page['Clipped'](Scale(3.0), radius=radius),)))

  cfg = drawn(parse('cfg:3'))
  np.testing.assert_allclose(clipped(1e9), cfg, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(clipped(0), drawn(parse('none')), atol=1e-5)
  assert np.abs(clipped(0.5) - cfg).max() > 0.05

  # The solver Ralston has order 2 and evaluates the network twice per step.
  exact = drawn(parse('none'), RK4(), steps=200)
  errors = [
    np.abs(drawn(parse('none'), steps=steps) - exact).mean()
    for steps in (20, 40)
  ]
  assert 3 < errors[0] / errors[1] < 5
  assert ralston.times(0.9, 0.6) == pytest.approx([0.9, 0.7])


@pytest.mark.slow
def test_method_of_the_page_with_a_name(tmp_path):
  """The method of extending.md needs code only in guidance/ and its tests."""
  for name in ('guidance', 'tests/guidance'):
    shutil.copytree(ROOT / name, tmp_path / name)
  for name in (
    'commands', 'configs', 'core', 'distill', 'dit', 'evaluate',
    'input_pipeline', 'sample', 'train', 'main.py', 'pyproject.toml',
    'tests/conftest.py', 'tests/command_runs.py', 'tests/networks.py',
  ):  # fmt: skip
    (tmp_path / name).symlink_to(ROOT / name)
  page = (ROOT / 'docs' / 'extending.md').read_text()
  first = re.search(r'```python\n(.*?)```', page, re.DOTALL)[1]
  method = first[first.index('@jax.tree_util') :]

  def edit(name, old, new):
    path = tmp_path / name
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))

  with (tmp_path / 'guidance' / 'label.py').open('a') as file:
    file.write(f'\n\n{method}')
  edit('guidance/parse.py', 'label.Tangential,',
       'label.Tangential,\n    label.Clipped,')  # fmt: skip
  edit('tests/guidance/test_identities.py', "'ig': '',",
       "'ig': '',\n  'clipped': '',")  # fmt: skip
  edit('tests/guidance/test_parse.py', "'ig:1.4', 'ig:1',",
       "'ig:1.4', 'ig:1', 'clipped:2:radius=3',")  # fmt: skip
  for line in (
    '`label.Clipped,`',
    "`'clipped': '',`",
    "`'clipped:2:radius=3',`",
  ):
    assert line in page
  done = subprocess.run(
    [sys.executable, '-m', 'ruff', 'check', '--no-cache', 'guidance'],
    cwd=tmp_path, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout
  done = subprocess.run(
    [sys.executable, '-m', 'pytest', '-p', 'no:xdist',
     'tests/guidance/test_identities.py', 'tests/guidance/test_parse.py',
     '-k', 'clipped or test_every or test_parse'],
    cwd=tmp_path, capture_output=True, text=True, timeout=300,
    env={**os.environ, 'PYTHONPATH': str(tmp_path)},
  )  # fmt: skip
  assert done.returncode == 0, done.stdout
  passed = int(re.search(r'(\d+) passed', done.stdout)[1])
  assert passed > 10


# This program runs all commands, one after another, on a tiny network.
COMMANDS = """
import sys

import main
from evaluate import classifier

classifier.recipe = lambda shape: (2, 16)
place = sys.argv[1]
network = ['--config.model.name=ConvNet-S', '--config.model.width=8']
short = [
  f'--config.data.dir={place}/data', '--config.train.images=32',
  '--config.train.batch_size=16', '--config.log.preview_every_images=0',
  '--config.optimizer.warmup_images=16', '--config.sample.batch_size=16',
]
run = f'--workdir={place}/run'
train = [
  '--config=configs/digits.py', run, *network, *short,
  '--config.sample.steps=2',
]
words = {
  'train --dry_run': train,
  'train': train,
  'sample': [run, '--num=16', '--guidance=ig:1.5,cfg:1.2,s2:1.2'],
  'compare': [
    run, '--num=20', '--bootstrap=2',
    '--guidance=none', '--guidance=ig:1.5,cfg:1.2,s2:1.2',
  ],
  'evaluate': [run, '--num=20', '--metrics=fd'],
  'distill': [
    '--config=configs/distill/digits.py:hybrid,2', f'--teacher={place}/run',
    f'--workdir={place}/student', '--config.distill.fake_updates=1', *network,
    *short,
  ],
  'convert': [f'--from={place}/run', f'--to={place}/folder'],
  'report': [run, '--no_draw'],
}
for name, arguments in words.items():
  status = main.main([*name.split(), *arguments])
  assert status == 0, name
"""


@pytest.mark.slow
def test_backbone_of_the_page_with_a_name(tmp_path):
  """The backbone of extending.md needs code only in dit/."""
  shutil.copytree(ROOT / 'dit', tmp_path / 'dit')
  shutil.copy(ROOT / 'main.py', tmp_path)
  for name in (
    'commands', 'configs', 'core', 'distill', 'evaluate', 'guidance',
    'input_pipeline', 'sample', 'train', 'pyproject.toml',
  ):  # fmt: skip
    (tmp_path / name).symlink_to(ROOT / name)
  (tmp_path / 'dit' / 'convnet.py').write_text(convnet.source())
  registry = tmp_path / 'dit' / 'backbone.py'
  text = registry.read_text()
  for old, new in (
    (
      'from dit import model, sharding',
      'from dit import convnet, model, sharding',
    ),
    ('(model.BACKBONE,)', '(model.BACKBONE, convnet.BACKBONE)'),
  ):
    assert text.count(old) == 1, old
    text = text.replace(old, new)
  registry.write_text(text)
  page = (ROOT / 'docs' / 'extending.md').read_text()
  assert '`from dit import convnet, model, sharding`' in page
  for command in (
    [sys.executable, '-m', 'ruff', 'check', '--no-cache', 'dit'],
    [sys.executable, '-c', COMMANDS, str(tmp_path)],
  ):
    done = subprocess.run(
      command, cwd=tmp_path, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(tmp_path),
           'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
