"""Helpers that run commands in the test process or in a new process."""

import contextlib
import fcntl
import html
import io
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import types

from absl import logging

import main

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = f'--config={ROOT}/configs/digits.py'
# A run of 30 steps has checkpoints at 10, 20 and 30, and previews at 15 and 30.
TINY = {
  'model.depth': 3,
  'model.width': 16,
  'model.num_heads': 2,
  'model.taps': (1,),
  'optimizer.warmup_images': 64,
  'train.images': 480,
  'train.batch_size': 16,
  'checkpoint.every_images': 160,
  'log.every_images': 80,
  'log.preview_every_images': 240,
  'log.preview_num': 20,
  'sample.steps': 3,
  'sample.batch_size': 16,
}
COMPARE = (
  '--num=40', '--guidance=none', '--guidance=ig:1.5',
  '--guidance=ig:1.5,cfg:1.2', '--bootstrap=5',
  '--config.eval.batch_size=64',
)  # fmt: skip

QUICK = ('--num=20', '--config.sample.steps=2', '--config.sample.batch_size=8')
STUDENT = (
  'model.depth=3', 'model.width=16', 'model.num_heads=2', 'train.images=48',
  'train.batch_size=16', 'distill.fake_updates=1', 'distill.substeps=1',
  'eval.num=32', "eval.metrics=('fd',)", 'log.preview_every_images=0',
  'sample.batch_size=16', 'distill.merge_ratios=(0.0,)',
)  # fmt: skip
MINE = """
import jax.numpy as jnp

def moments(x):
  n, h, w, _ = x.shape
  x = x.reshape(n, 2, h // 2, 2, w // 2, -1) / 255
  return jnp.concatenate([x.mean((2, 4)), x.std((2, 4))], -1).reshape(
    len(x), -1
  )
"""


def made_once(tmp_path_factory, name, make):
  """Returns a folder that the first pytest worker fills by calling `make`."""
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / name
  folder.mkdir(exist_ok=True)
  with (folder / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (folder / 'done').exists():
      make(folder)
      (folder / 'done').touch()
  return folder


def command_line(trained, mine, command, out):
  """Returns the words of a command that finishes within a few steps.

  Args:
    trained: Folder of the fixture `shared_run`.
    mine: Command-line flag that selects a feature extractor.
    command: Name of a command; 'flash' is `distill` with SD3.5-Flash's stages.
    out: Folder for the results.
  """
  data = f'--config.data.dir={trained}/data'
  source = f'--workdir={trained}/run'
  student = [data, f'--teacher={trained}/run', f'--workdir={out}']
  student += [f'--config.{value}' for value in STUDENT]
  digits = f'--config={ROOT}/configs/distill/digits.py'
  words = {
    'train': [DIGITS, data, f'--workdir={out}',
              *(f'--config.{key}={value}' for key, value in TINY.items())],
    'distill': [f'{digits}:hybrid,2', *student],
    'flash': [f'{digits}:flash,2', *student],
    'sample': [source, f'--out={out}', *QUICK],
    'compare': [source, f'--out={out}', *COMPARE],
    'sweep': [source, f'--out={out}', mine, *QUICK, '--guidance=ig:1..2:2',
              '--metric=fd'],
    'evaluate': [source, f'--out={out}', mine, *QUICK],
    'report': [source, f'--out={out}', '--no_draw'],
    'reference': [DIGITS, data, mine, f'--to={out}/new.npz'],
    'train-features': [DIGITS, data, '--steps=2', f'--to={out}/new'],
    'convert': [f'--from={trained}/run', f'--to={out}/new'],
  }[command]  # fmt: skip
  return ['distill' if command == 'flash' else command, *words]


def run(*argv):
  out, err = io.StringIO(), io.StringIO()
  handler = logging.get_absl_handler().python_handler
  stream = handler.setStream(err)
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = main.main([str(word) for word in argv])
  except SystemExit as error:
    status = error.code
  finally:
    handler.setStream(stream or sys.stderr)
  return types.SimpleNamespace(
    status=status, out=out.getvalue(), err=err.getvalue()
  )


def succeed(*argv):
  """Runs a command, and checks that its exit status is 0."""
  result = run(*argv)
  assert result.status == 0, result.err
  return result


def refusal(*argv):
  """Runs a command, checks that the exit status is 2, and returns stderr."""
  result = run(*argv)
  assert result.status == 2, result.err
  return result.err


def refused_line(*argv):
  """Returns the only stderr line of a command that must exit with status 2."""
  (line,) = refusal(*argv).splitlines()
  return line


def change_json(path, change):
  """Calls `change` on the contents of a JSON file, and saves the result."""
  found = json.loads(path.read_text())
  change(found)
  path.write_text(json.dumps(found))


def contents(folder):
  return {
    path: path.is_file() and path.read_bytes() for path in folder.rglob('*')
  }


def free_port():
  with socket.socket() as sock:
    sock.bind(('localhost', 0))
    return sock.getsockname()[1]


@contextlib.contextmanager
def started(words, stderr, **env):
  """Starts `python main.py WORDS`, and kills it when the context ends.

  Args:
    words: Words after `python main.py`.
    stderr: File that receives the standard error.
    **env: Extra environment variables; XLA_FLAGS is not inherited.
  """
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | env
  with stderr.open('w') as file:
    process = subprocess.Popen(
      [sys.executable, 'main.py', *words], cwd=ROOT, env=env,
      stdout=subprocess.DEVNULL, stderr=file,
    )  # fmt: skip
    try:
      yield process
    finally:
      process.kill()
      process.wait()


def printed(text):
  """Returns the words after `main.py` in each command that a text suggests."""
  found = []
  for line in re.findall(r'Try: (python main\.py [^\n<]*)', text):
    python, script, *words = shlex.split(html.unescape(line))
    assert (python, script) == ('python', 'main.py')
    found.append(words)
  return found
