"""Training, in acts: devices, data, state, steps, the end.

The same command continues a run: the state comes from the newest complete
checkpoint, and everything else is a function of (seed, step).
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator

import jax
from absl import logging
from etils import epath

from dit import model
from dit.sharding import check_batch, make_mesh
from dit.types import InputError
from sample import writer
from train import state as state_lib
from train.checkpoint import Checkpointer
from train.data.pipeline import batches
from train.data.source import (
  about_latents,
  check_source,
  normalisation_of,
  open_source,
)
from train.experiment import Experiment
from train.log import MetricsLog, plot_losses, progress_bar, read_metrics
from train.optimizer import make_optimizer, make_schedule
from train.preview import Preview
from train.step import make_train_step
from train.workdir import LATENTS


class NonFiniteError(RuntimeError):
  """Too many steps in a row had a loss or gradient that is not finite."""


@dataclasses.dataclass
class StopRequest:
  """Set by SIGTERM and Ctrl-C; the loop ends after the step under way."""

  signal: str = ''


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Turns the first SIGTERM or SIGINT into a request; a second acts at once."""
  request = StopRequest()
  previous = {}

  def handle(number, frame):
    del frame
    request.signal = signal.Signals(number).name
    for known, handler in previous.items():
      signal.signal(known, handler)

  for number in (signal.SIGTERM, signal.SIGINT):
    previous[number] = signal.signal(number, handle)
  try:
    yield request
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def check(experiment: Experiment) -> None:
  """Raises InputError for what cannot run here; compiles nothing."""
  if experiment.model.convention == 'noise':
    raise InputError(
      'model.convention noise (DiT) is for published weights: training '
      'minimises the error of a velocity; set model.convention=velocity.'
    )
  mesh = make_mesh(experiment.mesh)
  check_batch(mesh, experiment.train.batch_size, 'train.batch_size')
  source = open_source(experiment.data, experiment.data.train_split)
  check_source(source, experiment.data, experiment.model)
  if experiment.data.test_split:
    open_source(experiment.data, experiment.data.test_split)
  Preview(experiment, about_latents(source, experiment.data), mesh)


def train(experiment: Experiment, workdir: epath.Path) -> None:
  """Trains until the end, or until asked to stop.

  Args:
    experiment: every setting.
    workdir: of the run; see `train.workdir`.

  Raises:
    InputError: for what cannot run here.
    NonFiniteError: after `train.max_bad_steps` non-finite steps in a row.
  """
  check(experiment)

  # Devices.
  config, settings = experiment.model, experiment.train
  mesh = make_mesh(experiment.mesh)
  logging.info(
    'Mesh %s of %s; %.2f M parameters.',
    dict(mesh.shape),
    jax.devices()[0].device_kind,
    sum(leaf.size for leaf in jax.tree.leaves(model.shapes(config))) / 1e6,
  )

  # The step, and the state that it starts from.
  schedule = make_schedule(
    experiment.optimizer,
    batch_size=settings.batch_size,
    total_images=settings.images,
  )
  optimizer = make_optimizer(experiment.optimizer, schedule)
  abstract = state_lib.abstract(config, optimizer, mesh)
  source = open_source(experiment.data, experiment.data.train_split)
  about = about_latents(source, experiment.data)
  writer.write_json(workdir / LATENTS, about)
  preview = Preview(experiment, about, mesh)
  if experiment.log.preview_every_images and not preview.every:
    logging.info('No previews: log.preview_autoencoder is not set.')
  train_step = make_train_step(
    config,
    experiment.objective,
    optimizer,
    experiment.ema,
    abstract,
    normalisation_of(source, experiment.data),
  )
  with (
    stop_on_signals() as stop,
    jax.set_mesh(mesh),
    Checkpointer(
      workdir,
      experiment.checkpoint,
      settings.steps_of(experiment.checkpoint.keep_every_images) or None,
    ) as checkpointer,
  ):
    state = checkpointer.restore(abstract)
    if state is None:
      state = state_lib.init(config, optimizer, mesh, experiment.seed)
    start = int(state.step)
    if start >= settings.steps:
      _plot(workdir)
      logging.info('Already trained: %d steps.', start)
      return

    # Data, from the step that comes next.
    stream = batches(
      source,
      experiment.data,
      mesh,
      batch_size=settings.batch_size,
      seed=experiment.seed,
      start=start,
    )

    # Steps.
    with (
      MetricsLog(workdir, start) as log,
      progress_bar(
        total=settings.images,
        initial=start * settings.batch_size,
        unit=' images',
        desc='train',
      ) as bar,
    ):
      report = _Report(experiment, schedule, log, bar)
      logging.info('Compiling the train step.')
      key = jax.random.key(experiment.seed)
      for step in range(start + 1, settings.steps + 1):
        state, metrics = train_step(state, next(stream), key)
        # Reads the step before this one, so that the devices are never idle.
        stopping = stop.signal  # once: it may come at any line
        last = step == settings.steps or bool(stopping)
        report(step, metrics, last)
        if (
          last
          or step % settings.steps_of(experiment.checkpoint.every_images) == 0
        ):
          report.flush()
          checkpointer.save(state, step)
        if preview.every and (step % preview.every == 0) and not stopping:
          report.flush()
          log.image(step, 'preview', preview(state.ema))
        if stopping:
          break
      report.flush()
      checkpointer.wait()
      if stopping:
        logging.info('%s: saved step %d, stopping.', stopping, step)

  # The end.
  _plot(workdir)
  if step == settings.steps:
    logging.info('Trained %d steps; losses in %s/loss.png.', step, workdir)


def _plot(workdir: epath.Path) -> None:
  """Draws the losses so far."""
  rows = read_metrics(workdir)
  if rows and jax.process_index() == 0:
    plot_losses(workdir / 'loss.png', rows)


class _Report:
  """Hands finished steps to bar and log, one step late."""

  def __init__(self, experiment, schedule, log, bar) -> None:
    self._settings = experiment.train
    self._every = experiment.train.steps_of(experiment.log.every_images)
    self._schedule, self._log, self._bar = schedule, log, bar
    self._pending = None
    self._mark = None  # time and step since which images/s is measured

  def __call__(
    self, step: int, metrics: dict[str, jax.Array], last: bool
  ) -> None:
    """Takes step `step`, the last or not; reports the one before."""
    self.flush()
    self._pending = (step, metrics, last)

  def flush(self) -> None:
    """Reports the step that was taken last."""
    if self._pending is None:
      return
    step, metrics, last = self._pending
    self._pending = None
    values = {name: float(value) for name, value in metrics.items()}
    now = time.perf_counter()
    if self._mark is None:  # the first step compiles
      self._mark = (now, step)
    self._bar.update(self._settings.batch_size)
    self._bar.set_postfix(loss=f'{values["loss"]:.3f}', refresh=False)
    if values['bad_steps']:
      logging.warning(
        'Step %d is not finite and changed nothing (%d in a row).',
        step,
        values['bad_steps'],
      )
    if values['bad_steps'] >= self._settings.max_bad_steps:
      raise NonFiniteError(
        f'{values["bad_steps"]:.0f} steps in a row, up to step {step}, had a '
        'loss or gradient that is not finite. The last checkpoint is kept; '
        'lower optimizer.lr, in a new workdir, or look at the data.'
      )
    if last or (self._every and step % self._every == 0):
      before, at = self._mark
      values['lr'] = float(self._schedule(step - 1))
      values['images'] = step * self._settings.batch_size
      if step > at:
        rate = (step - at) * self._settings.batch_size / (now - before)
        values['images_per_second'] = rate
      self._mark = (now, step)
      self._log.scalars(step, values)
