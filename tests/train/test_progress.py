import contextlib
import socket
import time
import types

import command_runs
import jax
import numpy as np
import pytest
from tqdm import tqdm

from commands import cli
from core import cluster
from train import progress
from train.metrics_log import MetricsLog, read_metrics
from train.progress import Report

METRICS = {'loss': jax.numpy.float32(2), 'bad_steps': jax.numpy.float32(0)}


@contextlib.contextmanager
def reporting(tmp_path, experiment, **options):
  flops = progress.training_flops(experiment)
  with MetricsLog(tmp_path, 0) as log, tqdm(disable=True) as bar:
    yield Report(experiment, lambda step: 0.1, flops, log, bar, **options)


def test_rates_and_waiting(tmp_path, make_experiment):
  experiment = make_experiment('log.every_images=80')  # 80 images are 5 steps.

  def stream():
    while True:
      time.sleep(0.02)
      yield None

  with reporting(tmp_path, experiment) as tell:
    batches = tell.waiting(stream())
    for step in range(1, 11):
      next(batches)
      time.sleep(0.01)
      tell.record(step, METRICS, step == 10)
    tell.flush()
    assert tell.mean_loss() == 2
    assert np.isnan(tell.mean_loss())
  rows = read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [5, 10]
  row = rows[1]
  assert 0.4 < row['waiting'] < 0.9  # A step waits 20 of its 30 ms for data.
  assert 50 < row['images_per_second'] < 16 / 0.02
  expected = row['images_per_second'] * progress.training_flops(experiment)
  assert row['tflops'] == pytest.approx(expected / 1e12)
  assert not {'mfu', 'memory_gib'} & row.keys()  # These need an accelerator.


def test_rates_exclude_steps_that_compile(tmp_path, make_experiment):
  experiment = make_experiment('log.every_images=16')  # every step
  with reporting(tmp_path, experiment, compiling_until=3) as tell:
    for step in range(1, 6):
      time.sleep(0.01)
      tell.record(step, METRICS, step == 5)
    tell.flush()
  rows = read_metrics(tmp_path)
  rated = [row['step'] for row in rows if 'images_per_second' in row]
  assert rated == [4, 5]


def test_a_guide_costs_a_pass_more(make_experiment):
  plain = progress.training_flops(make_experiment())
  guided = make_experiment('objective.guided_weight=1.0')
  assert progress.training_flops(guided) == plain * 4 // 3
  by_null = make_experiment(
    'objective.guided_weight=1.0', 'objective.guided_weak=null'
  )
  assert progress.training_flops(by_null) == plain * 5 // 3
  heads = make_experiment('train.parameters=taps', 'train.init_from=x')
  assert progress.training_flops(heads) == plain // 3


@pytest.mark.parametrize(('kind', 'tflops'), [
  ('TPU v5 lite', 197), ('TPU v5', 459), ('TPU v6 lite', 918),
  ('NVIDIA H100 80GB HBM3', 989), ('cpu', None),
])  # fmt: skip
def test_peaks_of_known_chips(kind, tflops):
  found = progress.peak_flops(types.SimpleNamespace(device_kind=kind))
  assert found == (tflops and tflops * 1e12)


@pytest.mark.parametrize(('words', 'message'), [
  (['--coordinator=localhost:1'], 'go together'),
  (['--coordinator=foo', '--num_processes=1', '--process_id=0'],
   'expected HOST:PORT'),
  (['--num_processes=2', '--process_id=0'], 'go together'),
  (['--coordinator=x:1', '--num_processes=2', '--process_id=2'],
   'expected an integer from 0 to 1'),
])  # fmt: skip
def test_flags_that_make_no_job(words, message):
  result = command_runs.run('train', '--workdir=x', *words)
  assert result.status == 2
  assert message in result.err


def test_a_port_that_is_taken():
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    port = taken.getsockname()[1]
    result = command_runs.run(
      'train', '--workdir=x', f'--coordinator=localhost:{port}',
      '--num_processes=2', '--process_id=0',
    )  # fmt: skip
  assert result.status == 2
  assert f'port {port} is not available' in result.err


def test_no_flags_no_job(monkeypatch):
  args = cli.parse_args(['train'], '')
  monkeypatch.setattr(jax.distributed, 'initialize', None)
  cluster.join(args)
