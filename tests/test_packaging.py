"""Normal installs work without the checkout. Editable installs work, too."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import sysconfig

import jax
import pytest
from command_runs import ROOT

from commands import cli
from dit import model
from dit.config import DiTConfig
from dit.weights import folder as weights
from train.config_file import load_config
from train.experiment import build
from train.runs import sampling_of

pytestmark = pytest.mark.slow
PACKAGES = {
  'commands', 'configs', 'core', 'distill', 'dit', 'evaluate', 'guidance',
  'input_pipeline', 'sample', 'train',
}  # fmt: skip


def install(folder, *words):
  """Installs the project in a new environment; returns the folder `bin`.

  The new environment also has the packages of the current environment.
  """
  venv = [sys.executable, '-m', 'venv', '--without-pip', str(folder)]
  subprocess.run(venv, check=True)
  python = folder / 'bin' / 'python'
  pip = [sys.executable, '-m', 'pip', '--python', str(python), 'install']
  subprocess.run(
    [*pip, '--quiet', '--no-deps', *words, str(ROOT)], cwd=folder, check=True
  )
  (site_packages,) = folder.glob('lib/python*/site-packages')
  # Python reads no .pth files in a folder that a .pth file adds. The new
  # environment therefore ignores an editable install in the current one.
  (site_packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
  return folder / 'bin'


def call(folder, *words):
  hidden = ('PYTHONPATH', 'XLA_FLAGS')
  env = {k: v for k, v in os.environ.items() if k not in hidden}
  result = subprocess.run(
    [str(word) for word in words],
    cwd=folder,
    env=env | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  return install(tmp_path_factory.mktemp('installed') / 'venv')


def test_every_file_of_the_packages_is_installed(installed):
  (site_packages,) = installed.parent.glob('lib/python*/site-packages')
  (info,) = site_packages.glob('selfguide-*.dist-info')
  distribution = importlib.metadata.Distribution.at(info)
  files = {pathlib.Path(file) for file in distribution.files or ()}
  modules = {
    file
    for file in files
    if file.parts[0] not in ('..', info.name) and file.suffix != '.pyc'
  }
  expected = {
    file.relative_to(ROOT)
    for package in PACKAGES
    for file in (ROOT / package).rglob('*')
    if file.is_file() and file.suffix != '.pyc'
  }
  assert modules == expected | {pathlib.Path('main.py')}
  assert distribution.version == cli.VERSION


def test_the_program_runs_outside_of_the_checkout(installed, tmp_path):
  selfguide = installed / 'selfguide'
  assert call(tmp_path, selfguide, '--version').startswith(
    f'selfguide {cli.VERSION}'
  )
  text = call(tmp_path, selfguide, 'train', '--help')
  assert 'usage: selfguide train' in text and 'main.py' not in text
  text = call(tmp_path, selfguide, 'train', '--config=configs/digits.py',
              '--dry_run')  # fmt: skip
  assert "model.name = 'SiT-Tiny/2'" in text


def test_images_are_sampled_outside_of_the_checkout(installed, tmp_path):
  config = DiTConfig(size=4, channels=3, num_classes=2, patch=2, depth=2,
                     width=16, num_heads=2)  # fmt: skip
  params = jax.device_get(model.init(config, jax.random.key(0)))
  weights.save_folder(tmp_path / 'weights', config, params, info={})
  call(tmp_path, installed / 'selfguide', 'sample', '--folder=weights',
       '--out=images', '--num=2', '--config.sample.steps=2')  # fmt: skip
  assert (tmp_path / 'images' / 'samples.npz').is_file()
  text = call(
    tmp_path, installed / 'python', '-c',
    'import sample; from sample import load; print(sample.__file__); '
    "print(load('weights')([0, 1], steps=2).shape)",
  )  # fmt: skip
  place, shape = text.splitlines()
  assert pathlib.Path(place).is_relative_to(installed.parent)
  assert shape.startswith('(2, ')


def test_session_of_the_docs(installed, tmp_path):
  """The session in docs/sampling.md, with a network like that of the page."""
  page = (ROOT / 'docs' / 'sampling.md').read_text()
  (session,) = re.findall(r'^```pycon\n(.*?)^```$', page, re.DOTALL | re.M)
  experiment = build(load_config(str(ROOT / 'configs/digits.py')).to_dict())
  weights.save_folder(
    tmp_path / 'runs' / 'digits',
    experiment.model,
    jax.device_get(model.init(experiment.model, jax.random.key(0))),
    info={
      'latents': {'classes': list(map(str, range(10)))},
      'sample': sampling_of(experiment),
    },
  )
  (tmp_path / 'session.txt').write_text(session)
  python = installed / 'python'
  text = call(tmp_path, python, '-m', 'doctest', '-v', 'session.txt')
  assert f'{session.count(">>> ")} passed' in text


def test_an_editable_installation_is_the_checkout(tmp_path):
  programs = install(tmp_path / 'venv', '--editable')
  text = call(tmp_path, programs / 'selfguide', '--version')
  assert text.startswith(f'selfguide {cli.VERSION}')
  code = 'import configs, main; print(configs.__file__, main.__file__)'
  assert call(tmp_path, programs / 'python', '-c', code).split() == [
    f'{ROOT}/configs/__init__.py',
    f'{ROOT}/main.py',
  ]
