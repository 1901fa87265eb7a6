"""Stops, kills and resumes a training job of two processes.

Each process has two simulated devices. FSDP shards over all four devices.
"""

import contextlib
import json
import re
import signal
import time

import command_runs
import numpy as np
import pytest
from command_runs import free_port

STEPS = 80
HEARTBEAT = 10
CONFIG = (
  'model.depth=2',
  'model.width=16',
  'model.num_heads=2',
  'model.taps=(1,)',
  'optimizer.warmup_images=640',
  f'train.images={64 * STEPS}',
  'checkpoint.every_images=640',
  'log.every_images=64',
  'log.preview_every_images=0',
)


class Job:
  def __init__(self, folder, processes=2):
    self.folder, self.processes = folder, processes
    folder.mkdir(exist_ok=True)

  @contextlib.contextmanager
  def started(self, *words):
    """Starts the processes, and kills them when the context ends."""
    devices = f'--xla_force_host_platform_device_count={4 // self.processes}'
    argv, port = [*words, f'--workdir={self.folder}/run'], free_port()
    with contextlib.ExitStack() as stack:
      running = []
      for i in range(self.processes):
        flags = [
          f'--coordinator=localhost:{port}',
          f'--num_processes={self.processes}',
          f'--process_id={i}',
          f'--heartbeat_seconds={HEARTBEAT}',
        ] * (self.processes > 1)
        stderr = self.folder / f'stderr{i}'
        process = command_runs.started(argv + flags, stderr, XLA_FLAGS=devices)
        running.append(stack.enter_context(process))
      yield running

  def train(self):
    return self.started(
      'train',
      '--config=configs/digits.py',
      f'--config.data.dir={self.folder}/data',
      '--config.mesh.fsdp=4',
      '--config.mesh.data=1',
      *(f'--config.{assignment}' for assignment in CONFIG),
    )

  def stderr(self, i=0):
    return (self.folder / f'stderr{i}').read_text()

  def reach(self, step, running):
    end = time.monotonic() + 240
    while not re.search(rf' step {step}: ', self.stderr()):
      assert time.monotonic() < end, self.stderr()
      codes = [process.poll() for process in running]
      assert codes == [None] * self.processes, self.stderr()
      time.sleep(0.02)

  def saved(self):
    names = [path.name for path in (self.folder / 'run/checkpoints').iterdir()]
    return max(int(name) for name in names if name.isdecimal())

  def losses(self):
    text = (self.folder / 'run' / 'metrics.jsonl').read_text()
    return [json.loads(line)['loss'] for line in text.splitlines()]


def codes(running, seconds=240):
  return [process.wait(timeout=seconds) for process in running]


@pytest.mark.slow
def test_two_processes(tmp_path):
  job = Job(tmp_path / 'two')
  with job.train() as running:
    job.reach(13, running)
    running[1].send_signal(signal.SIGTERM)
    assert codes(running) == [0, 0], job.stderr()
  first = job.saved()
  assert 13 <= first < STEPS
  assert f'SIGTERM: saved step {first}' in job.stderr()

  # Ctrl-C in one process must stop both processes.
  with job.train() as running:
    job.reach(first + 3, running)
    running[0].send_signal(signal.SIGINT)
    assert codes(running) == [0, 0], job.stderr()
  assert job.saved() > first
  first = job.saved()

  for killed in (1, 0):
    with job.train() as running:
      job.reach(first + 12, running)
      running[killed].kill()
      begin = time.monotonic()
      survivor = running[1 - killed].wait(timeout=120)
      assert survivor not in (0, None)
      assert time.monotonic() - begin < 3 * HEARTBEAT
    assert f'Restored step {first}.' in job.stderr()
    first = job.saved()

  with job.train() as running:
    assert codes(running) == [0, 0], job.stderr()
  assert f'Restored step {first}.' in job.stderr()
  assert job.saved() == STEPS

  whole = Job(tmp_path / 'one', processes=1)
  with whole.train() as running:
    assert codes(running) == [0], whole.stderr()
  assert len(job.losses()) == STEPS
  np.testing.assert_allclose(job.losses(), whole.losses(), rtol=1e-4)

  # A job of two processes must sample the same images as one process.
  images = []
  for count in (2, 1):
    sampling = Job(job.folder, processes=count)
    out = f'{tmp_path}/images{count}'
    with sampling.started(
      'sample', '--num=12', '--guidance=ig:1.5,cfg:1.2', f'--out={out}',
      '--config.sample.steps=5', '--config.sample.batch_size=8',
    ) as running:  # fmt: skip
      assert codes(running) == [0] * count, sampling.stderr()
    images.append(np.load(f'{out}/samples.npz')['arr_0'].astype(int))
  assert len(images[0]) == 12
  assert np.abs(images[0] - images[1]).max() <= 1
