import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_runs import ROOT, free_port, run


@pytest.mark.slow
def test_processes_and_devices_agree(mine, tmp_path):
  rng = np.random.default_rng(0)
  for name in 'ab':
    low = 60 * (name == 'b')
    images = rng.integers(low, 256, (150, 1, 1, 3)) + rng.integers(
      0, 30, (150, 8, 8, 3)
    )
    np.savez(tmp_path / f'{name}.npz', images.clip(0, 255).astype(np.uint8))
  words = [
    'evaluate', f'--samples={tmp_path}/a.npz', f'--reference={tmp_path}/b.npz',
    mine, '--config.eval.batch_size=64', '--config.eval.kid_subset_size=50',
    '--config.eval.kid_subsets=5',
  ]  # fmt: skip
  alone = run(*words, f'--out={tmp_path}/one')
  assert alone.status == 0, alone.err
  flags = (
    f'--out={tmp_path}/two', f'--coordinator=localhost:{free_port()}',
    '--num_processes=2',
  )  # fmt: skip
  devices = '--xla_force_host_platform_device_count=2'
  jobs = [
    subprocess.Popen(
      [sys.executable, 'main.py', *words, *flags, f'--process_id={i}'],
      cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=os.environ | {'XLA_FLAGS': devices},
    )
    for i in range(2)
  ]  # fmt: skip
  outs = []
  for job in jobs:
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    outs.append(out)
  one, two = (
    json.loads((tmp_path / name / 'evaluation.json').read_text())['metrics']
    for name in ('one', 'two')
  )
  assert one == pytest.approx(two, rel=1e-6)
  assert one['fd'] > 0
  assert 'FD (mine:moments)' in outs[0]
  assert '| FD' not in outs[1]  # Only the first process prints metrics.
