"""IG lowers the FD of the trained demo by over 3 standard errors."""

import json
import os
import subprocess
import sys

import pytest
from command_runs import ROOT


def main(*argv):
  env = {**os.environ, 'XLA_FLAGS': '', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '0'}
  subprocess.run(
    [sys.executable, 'main.py', *argv], cwd=ROOT, env=env, check=True
  )


@pytest.mark.slow
def test_guided_and_unguided_digits_are_told_apart(tmp_path):
  run, data = f'{tmp_path}/run', f'--config.data.dir={tmp_path}/data'
  main('train', f'--workdir={run}', data)
  main('train-features', f'--to={tmp_path}/features', data)
  found = []
  for guidance in ('none', 'ig:1.5'):
    main(
      'evaluate', f'--workdir={run}', f'--guidance={guidance}', '--num=500',
      f'--extractor=classifier:{tmp_path}/features', '--repeats=4',
      '--metrics=fd', f'--out={tmp_path}/{guidance}',
    )  # fmt: skip
    path = tmp_path / guidance / 'evaluation.json'
    found.append(json.loads(path.read_text())['metrics'])
  none, ig = found
  error = (none['fd_se'] ** 2 + ig['fd_se'] ** 2) ** 0.5
  assert none['fd'] - ig['fd'] > 3 * error
