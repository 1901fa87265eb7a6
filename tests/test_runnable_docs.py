"""Runs commands and Python code of README.md and docs/ on a small network.

The code is in fenced blocks for bash, python or pycon, a Python session, which
`test_packaging` runs. Code that needs other files or machines is indented in
the docs, so no test runs this code.
"""

import pathlib
import re
import shlex
import shutil
import textwrap

import pytest
from command_runs import ROOT, TINY, run

# Other test files run and check the Python code of these pages.
ELSEWHERE = {
  'docs/checkpoints.md': 'test_docs',
  'docs/extending.md': 'test_docs',
}
PAGES = {
  'README.md': ['bash', 'python'],
  'docs/index.md': ['bash'] * 2,
  'docs/sampling.md': ['bash'] * 3 + ['python', 'pycon', 'bash'],
}
FENCE = re.compile(
  r'^( *)```(bash|python|pycon)\n(.*?)^ *```$', re.DOTALL | re.MULTILINE
)


def blocks(page):
  text = (ROOT / page).read_text()
  return [
    (kind, textwrap.dedent(code)) for _, kind, code in FENCE.findall(text)
  ]


def pages():
  found = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
  return [str(path.relative_to(ROOT)) for path in found]


def test_every_runnable_block_is_run():
  for page in pages():
    kinds = [kind for kind, _ in blocks(page)]
    assert (ROOT / page).read_text().count('```') == 2 * len(kinds), page
    assert kinds == PAGES.get(page, kinds if page in ELSEWHERE else []), page


def test_links_of_the_readme():
  """Checks links in files outside docs/. `make docs` checks links in docs/."""
  for name in ('README.md', 'CONTRIBUTING.md'):
    links = re.findall(r'\]\((?!https?:)([^)#]+)', (ROOT / name).read_text())
    assert links
    for link in links:
      assert (ROOT / link).exists(), f'{name}: {link}'


def smaller(words, shared_run, features):
  """Returns the words of a documented command, changed for a quick run."""
  command = words[0]
  values = {}
  if command in ('train', 'distill'):
    values = TINY | {'data.dir': shared_run / 'data'}
    words = [word for word in words if not word.startswith('--config.model')]
  if command == 'distill':
    del values['model.taps']  # A student has no taps.
    values |= {'distill.fake_updates': 1, 'train.images': 48}
  if command in ('compare', 'sweep', 'evaluate'):
    words = [*words, features]
  if command == 'compare':
    words = [*words, '--bootstrap=5']
  if command == 'sweep':
    words = [re.sub(r'(\.\.[\d.]+):6', r'\1:2', word) for word in words]
  numbers = {'sample': 8, 'compare': 20, 'sweep': 20, 'evaluate': 20}
  number = numbers.get(command)
  return [
    *words,
    *(f'--config.{key}={value}' for key, value in values.items()),
    *([f'--num={number}'] if number else []),
  ]


@pytest.mark.parametrize(
  'page',
  [
    pytest.param('README.md', marks=pytest.mark.slow),
    pytest.param('docs/index.md', marks=pytest.mark.slow),
    pytest.param('docs/sampling.md', marks=pytest.mark.slow),
  ],
)
def test_page(page, shared_run, features, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if page != 'README.md':  # Commands in README.md train their own runs.
    for name in ('demo', 'digits'):
      shutil.copytree(shared_run / 'run', pathlib.Path('runs') / name)
  names = {}
  for kind, code in blocks(page):
    if kind == 'python':
      exec(compile(code, page, 'exec'), names)
    if kind != 'bash':
      continue
    for line in code.splitlines():
      python, main, *words = shlex.split(line)
      assert (python, main) == ('python', 'main.py'), line
      result = run(*smaller(words, shared_run, features))
      assert result.status == 0, f'{line}\n{result.err}'
  assert list(pathlib.Path('runs').rglob('samples.json'))
