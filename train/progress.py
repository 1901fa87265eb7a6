"""Logs metrics, throughput and memory of a step during the next step.

images_per_second   rate since the previous line of the log
waiting             share of the same period that was spent waiting for batches
tflops              model TFLOP/s of all devices, where a multiply-add counts as
                    2, a backward pass as two forward passes, recomputation as 0
mfu                 tflops divided by the bfloat16 peak of all devices
memory_gib          largest peak memory of a device so far, in GiB
compile_seconds     duration of the first call of the step, logged once
"""

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from core.errors import NonFiniteError
from core.progress import restart
from train.experiment import Experiment
from train.metrics_log import MetricsLog

# Published dense bfloat16 TFLOP/s per chip (v3: per core).
PEAK_TFLOPS = {
  'TPU v3': 61.5,
  'TPU v4': 275,
  'TPU v5 lite': 197,
  'TPU v5': 459,
  'TPU v5p': 459,
  'TPU v6 lite': 918,
  'NVIDIA A100': 312,
  'NVIDIA H100': 989,
  'NVIDIA H200': 989,
}


def check_skipped(bad_steps: int, steps: int) -> None:
  """Raises NonFiniteError if most steps so far were non-finite."""
  if 2 * bad_steps > steps:
    raise NonFiniteError(
      f'{bad_steps} of {steps} steps had a loss or gradient that is not finite '
      'and changed nothing, so the run is as good as untrained; lower '
      'optimizer.lr, in a new workdir, or look at the data.'
    )


def training_flops(experiment: Experiment) -> int:
  """Returns the FLOPs of a step per image.

  A guide adds one forward pass, or two if its weak prediction is not a tap.
  Training of the taps alone has no backward pass through the network; the few
  FLOPs of their own backward pass are not counted.
  """
  passes = 1 if experiment.train.parameters == 'taps' else 3
  if experiment.objective.guided_weight:
    passes += 1 if experiment.objective.guided_weak == 'tap' else 2
  return 2 * passes * experiment.model.pass_multiply_adds


def peak_flops(device: jax.Device) -> float | None:
  """Returns the dense bfloat16 FLOP/s of a device; None if unknown."""
  names = [name for name in PEAK_TFLOPS if device.device_kind.startswith(name)]
  return 1e12 * PEAK_TFLOPS[max(names, key=len)] if names else None


def device_memory() -> float | None:
  """Returns the largest local peak memory in GiB; None if unknown (CPU)."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s]
  return max(peaks) / 2**30 if peaks else None


class Report:
  """Shows and logs the metrics of a step after the next step has started."""

  def __init__(
    self,
    experiment: Experiment,
    schedule: Callable[[int], Any],
    flops: float,
    log: MetricsLog,
    bar: tqdm,
    bad_steps: int = 0,
    compiling_until: int = 0,
  ) -> None:
    """Starts the clock of a run that has taken `bad_steps` non-finite steps.

    `schedule` maps the step to the learning rate. `flops` are the FLOPs of a
    step per image. `log` receives a line every `log.every_images` images. Rates
    exclude the first step, and steps up to `compiling_until`.
    """
    self.bad_steps = bad_steps
    self._compiling_until = compiling_until
    self._settings = experiment.train
    self._every = experiment.train.steps_of(experiment.log.every_images)
    self._schedule, self._log, self._bar = schedule, log, bar
    self._flops = flops
    self._pending: tuple[int, dict[str, jax.Array], bool] | None = None
    self._latest: dict[str, float] = {}  # a step may lack some of the metrics
    # Time and step at the start of the interval for the next rates.
    self._mark: tuple[float, int] | None = None
    self._waited = 0.0
    self._losses: list[float] = []  # losses since the last checkpoint
    self._compile_seconds: float | None = None  # None after it is logged

  def waiting(self, stream: Iterator[Any]) -> Iterator[Any]:
    """Yields the items of a stream and measures the time spent waiting."""
    while True:
      begin = time.perf_counter()
      try:
        batch = next(stream)
      except StopIteration:
        return
      self._waited += time.perf_counter() - begin
      yield batch

  def record(
    self, step: int, metrics: dict[str, jax.Array], last: bool
  ) -> None:
    """Reports the previous step and stores the metrics of the current step."""
    self.flush()
    self._pending = (step, metrics, last)

  def compiled(self, seconds: float) -> None:
    """Stores the duration of the first call of the step, to log it later."""
    self._compile_seconds = seconds

  @contextlib.contextmanager
  def paused(self, step: int) -> Iterator[None]:
    """Excludes the time of a `with` block after `step` from the rates."""
    self.flush()
    yield
    self._mark, self._waited = (time.perf_counter(), step), 0.0

  @property
  def sound(self) -> bool:
    """Returns whether the last step and its parameters were finite."""
    norms = (v for k, v in self._latest.items() if k.endswith('param_norm'))
    return not self._latest.get('bad_steps') and all(map(math.isfinite, norms))

  def check_end(self, step: int, saved: int | None) -> None:
    """Raises NonFiniteError if the last step or most steps were non-finite."""
    check_skipped(self.bad_steps, step)
    if not self.sound:
      raise NonFiniteError(
        f'step {step}, the last one, is not finite and was not saved; the '
        f'newest checkpoint is that of step {saved}. Train a little longer '
        '(train.images), lower optimizer.lr, in a new workdir, or look at the '
        'data.'
      )

  def mean_loss(self) -> float:
    """Returns the mean loss since the last call; nan without finite steps."""
    losses, self._losses = self._losses, []
    return float(np.mean(losses)) if losses else float('nan')

  def flush(self) -> None:
    """Reports the step that `record` stored, unless it was reported before.

    Raises NonFiniteError after `train.max_bad_steps` non-finite steps in a row.
    """
    if self._pending is None:
      return
    step, metrics, is_last = self._pending
    self._pending = None
    self._latest |= {name: float(value) for name, value in metrics.items()}
    self.bad_steps += bool(self._latest['bad_steps'])
    values = {**self._latest, 'bad_steps_total': self.bad_steps}
    now = time.perf_counter()
    self._bar.update(self._settings.batch_size)
    if self._mark is None or step <= self._compiling_until:
      self._mark, self._waited = (now, step), 0.0
      restart(self._bar, step * self._settings.batch_size)
    self._bar.set_postfix(loss=f'{values["loss"]:.3f}', refresh=False)
    if values['bad_steps']:
      logging.warning(
        'Step %d is not finite and changed nothing (%d in a row).',
        step,
        values['bad_steps'],
      )
    else:
      self._losses.append(values['loss'])
    if values['bad_steps'] >= self._settings.max_bad_steps:
      raise NonFiniteError(
        f'{values["bad_steps"]:.0f} steps in a row, up to step {step}, had a '
        'loss or gradient that is not finite. The last checkpoint is kept; '
        'lower optimizer.lr, in a new workdir, or look at the data.'
      )
    if is_last or (self._every and step % self._every == 0):
      values['lr'] = float(self._schedule(step - 1))
      values['images'] = step * self._settings.batch_size
      values |= self._rates(self._mark, step, now)
      if self._compile_seconds is not None:
        values['compile_seconds'] = self._compile_seconds
        self._compile_seconds = None
      self._log.scalars(step, values, note=self._time_left(step, values))

  def _time_left(self, step: int, values: dict[str, float]) -> str:
    """Returns a note such as ', 0:03:20 left', or '' if the rate is unknown."""
    if not (rate := values.get('images_per_second')):
      return ''
    seconds = (self._settings.steps - step) * self._settings.batch_size / rate
    return f', {datetime.timedelta(seconds=round(seconds))} left'

  def _rates(
    self, mark: tuple[float, int], step: int, now: float
  ) -> dict[str, float]:
    """Returns the rates since the last logged line; starts a new interval."""
    (begin, start), wait = mark, self._waited
    self._mark, self._waited = (now, step), 0.0
    if step == start:
      return {}
    seconds = now - begin
    rate = (step - start) * self._settings.batch_size / seconds
    values = {
      'images_per_second': rate,
      'waiting': wait / seconds,
      'tflops': rate * self._flops / 1e12,
    }
    devices = jax.devices()
    if peak := peak_flops(devices[0]):
      values['mfu'] = rate * self._flops / (peak * len(devices))
    if memory := device_memory():
      values['memory_gib'] = memory
    return values
