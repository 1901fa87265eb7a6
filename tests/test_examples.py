"""The notebooks in examples/ run, and are stored with their outputs."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from command_runs import ROOT
from PIL import Image

# Without this variable, Jupyter prints a warning.
os.environ.setdefault('JUPYTER_PLATFORM_DIRS', '1')
NEEDED = 'the notebooks need requirements-dev.txt'
nbformat = pytest.importorskip('nbformat', reason=NEEDED)
nbclient = pytest.importorskip('nbclient', reason=NEEDED)
pytest.importorskip('ipykernel', reason=NEEDED)

# Each notebook's parameters for a tiny run, and its number of pictures. Paths
# are in a temporary folder.
RUN = pathlib.Path('run')
DIGITS = [
  '--config=configs/digits.py', '--config.train.images=640',
  '--config.model.depth=4', '--config.sample.steps=6',
]  # fmt: skip
EXAMPLES = {
  'guidance_explorer': (
    {'WORKDIR': RUN, 'TRAIN': DIGITS, 'INVERSION_STEPS': 4},
    8,
  ),
  'your_own_images': (
    {'FOLDER': pathlib.Path('photos'), 'WORKDIR': RUN, 'SIZE': 8,
     'IMAGES': 1280},
    4,
  ),
  'published_checkpoint': (
    {'RUN': RUN, 'FOLDER': pathlib.Path('weights'), 'IMAGES': 640},
    2,
  ),
}  # fmt: skip


def read(name):
  return nbformat.read(ROOT / 'examples' / f'{name}.ipynb', as_version=4)


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def outputs(notebook):
  return [output for cell in code_cells(notebook) for output in cell.outputs]


def pictures(notebook):
  found = (output.get('data', {}) for output in outputs(notebook))
  return [data['image/png'] for data in found if 'image/png' in data]


def texts(notebook):
  for cell in notebook.cells:
    yield cell.source
  for output in outputs(notebook):
    yield output.get('text', '')
    yield output.get('data', {}).get('text/plain', '')


def with_parameters(notebook, values):
  """Sets values in the notebook cell that has the tag `parameters`."""
  (cell,) = (
    cell
    for cell in notebook.cells
    if 'parameters' in cell.metadata.get('tags', ())
  )
  for name, value in values.items():
    line = f'{name} = {value!r}'
    cell.source, count = re.subn(
      rf'^{name} = .*$', lambda _, line=line: line, cell.source, flags=re.M
    )
    assert count == 1, name


def write_photographs(folder):
  """Writes noise as PNG and JPEG files of two classes."""
  random = np.random.default_rng(0)
  for name in ('cat', 'dog'):
    (folder / name).mkdir(parents=True)
    for suffix in ('png', 'jpg'):
      pixels = random.integers(0, 256, (12, 10, 3), np.uint8)
      Image.fromarray(pixels).save(folder / name / f'1.{suffix}')


def test_every_notebook_is_known():
  assert {path.stem for path in (ROOT / 'examples').iterdir()} == set(EXAMPLES)


@pytest.mark.slow  # `make examples` runs this test.
@pytest.mark.parametrize('name', EXAMPLES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
  # The notebook runs in another folder, so the project must be in PYTHONPATH.
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  # The notebook gets one device instead of eight, and compiles faster.
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  notebook = read(name)
  values, count = EXAMPLES[name]
  places = {
    key: str(tmp_path / value) if isinstance(value, pathlib.Path) else value
    for key, value in values.items()
  }
  with_parameters(notebook, places)
  for cell in code_cells(notebook):
    cell.outputs = []
  write_photographs(tmp_path / 'photos')
  before = set((ROOT / 'runs').glob('*'))
  # `execute` raises an error if a cell fails.
  nbclient.NotebookClient(
    notebook,
    timeout=300,
    kernel_name='python3',
    resources={'metadata': {'path': str(tmp_path)}},
  ).execute()
  assert len(pictures(notebook)) == count
  assert set((ROOT / 'runs').glob('*')) == before
  assert (tmp_path / 'run' / 'checkpoints').exists()


@pytest.mark.parametrize('name', EXAMPLES)
def test_a_notebook_is_stored_with_its_outputs(name):
  notebook = read(name)
  nbformat.validate(notebook)
  cells = code_cells(notebook)
  assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
  assert len(pictures(notebook)) == EXAMPLES[name][1]
  for output in outputs(notebook):
    assert output.output_type != 'error'
    assert output.get('name') != 'stderr', output.text
  for text in texts(notebook):
    assert not re.search(r'(?<![\w.)}/:-])/[\w.-]+/|\w:\\', text), text
  assert (ROOT / 'examples' / f'{name}.ipynb').stat().st_size < 1_000_000


@pytest.mark.parametrize('name', EXAMPLES)
def test_nothing_volatile_is_stored(name):
  """The pre-commit hook nbstripout would not change the notebooks."""
  pytest.importorskip('nbstripout', reason=NEEDED)
  hooks = (ROOT / '.pre-commit-config.yaml').read_text()
  (flags,) = re.findall(r'entry: \.venv/bin/nbstripout (.*)', hooks)
  argv = [*shlex.split(flags), '--verify', f'examples/{name}.ipynb']
  result = subprocess.run(
    [sys.executable, '-m', 'nbstripout', *argv],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert result.returncode == 0, result.stdout + result.stderr
