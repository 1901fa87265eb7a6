"""Kills `sample` at random times, and resumes the command."""

import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import time

import jax
import networks
import numpy as np
import pytest
from command_runs import ROOT

from dit.config import DiTConfig
from dit.weights import folder

COUNT = 160
CONFIG = DiTConfig(size=8, channels=1, num_classes=10, patch=2, depth=4,
                   width=32, num_heads=2, taps=(2,))  # fmt: skip


class Command:
  def __init__(self, place, name, form):
    self.out = place / name
    self.form = form
    self.argv = [
      sys.executable, 'main.py', 'sample', f'--folder={place}/net',
      f'--out={self.out}', f'--num={COUNT}', f'--format={form}',
      '--guidance=ig:1.4,cfg:1.3@0-0.7,s2:1.25', '--config.sample.batch_size=8',
      '--config.sample.steps=30',
    ]  # fmt: skip
    self.env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}

  def run(self, stop=None):
    """Runs the command; kills it and returns False once `stop()` is true."""
    with subprocess.Popen(
      self.argv, cwd=ROOT, env=self.env, stderr=subprocess.PIPE, text=True
    ) as process:
      while process.poll() is None:
        if stop is not None and stop():
          process.kill()
          process.wait()
          return False
        time.sleep(0.002)
      assert process.returncode == 0, process.stderr.read()
    return True

  def done(self):
    inside = self.out / ('parts' if self.form == 'npz' else 'images')
    return len(list(inside.glob('[!.]*'))) if inside.exists() else 0

  def digests(self):
    """Returns the digests of all images, labels and text files."""
    digests = {}
    for path in sorted(self.out.rglob('*')):
      if path.suffix in ('.png', '.txt'):
        name = str(path.relative_to(self.out))
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    if self.form == 'npz':
      with np.load(self.out / 'samples.npz') as arrays:
        for name in arrays.files:
          digests[name] = hashlib.sha256(arrays[name].tobytes()).hexdigest()
          assert len(arrays[name]) == COUNT
    found = json.loads((self.out / 'samples.json').read_text())
    assert found['complete'] is True
    return digests


def kill_once(command, rng, moment):
  """Kills the command during `moment`. Returns whether it finished earlier."""
  if moment == 'start-up':
    deadline = time.monotonic() + rng.uniform(0, 6)
    return command.run(lambda: time.monotonic() > deadline)
  total = COUNT if command.form == 'png' else COUNT // 8
  if moment == 'drawing':
    before = command.done()
    least = min(before + rng.randint(1, total // 3), total)
    return command.run(lambda: command.done() >= least)
  # In the last phase, all images exist, and the command writes its results.
  return command.run(lambda: command.done() >= total and rng.random() < 0.2)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  place = tmp_path_factory.mktemp('sample')
  params = jax.device_get(networks.perturbed(CONFIG).params)
  folder.save_folder(place / 'net', CONFIG, params, info={})
  return place


@pytest.fixture(scope='module')
def expected(place):
  """Returns a function that gives the digests of an uninterrupted command."""

  @functools.cache
  def digests(form):
    command = Command(place, f'whole-{form}', form)
    assert command.run()
    return command.digests()

  return digests


@pytest.mark.slow
@pytest.mark.parametrize('form', ['npz', 'png'])
def test_killed_ten_times(place, expected, form):
  command, rng = Command(place, f'ten-{form}', form), random.Random(1)
  kinds = ['start-up'] * 3 + ['drawing'] * 5 + ['end'] * 2
  rng.shuffle(kinds)
  killed = 0
  for kind in kinds:
    killed += not kill_once(command, rng, kind)
  assert killed >= 6  # Some commands end before a kill.
  assert command.run()
  assert command.digests() == expected(form)
