"""The training loop, which repeats the step of a `TrainingTask`.

The command that started a run also resumes the run. The newest complete
checkpoint provides the state, and (seed, step) determine everything else.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging
from etils import epath
from jax.sharding import Mesh

from core.files import write_json
from core.progress import progress_bar
from core.signals import StopRequest, stop_on_signals
from dit import backbone
from input_pipeline.batches import batches
from input_pipeline.sources import normalization_of
from sample import pictures
from sample.saved_network import LATENTS
from train import state as state_lib
from train.checkpointer import Checkpointer, SaveError
from train.experiment import Experiment
from train.metrics_log import MetricsLog, read_metrics
from train.optimizer import make_optimizer, make_schedule
from train.plots import losses
from train.posthoc_ema import Snapshots
from train.progress import Report, check_skipped, training_flops
from train.runs import start_weights
from train.saver import Saver
from train.setup import Setup
from train.step import make_train_step


@dataclasses.dataclass(frozen=True)
class TrainingTask:
  """The training step that a run repeats, and the inputs of that step.

  Attributes:
    abstract: Shapes, dtypes and shardings of the `TrainState`.
    fresh: Function that makes the initial state.
    step: Function from (n, state, batch, key) to state and metrics. n counts
      the previous steps and must equal `state.step`.
    schedule: Function from n to the learning rate of step n.
    flops: FLOPs of a step per image; a multiply-add counts as 2.
    reads_records: Whether the step needs records; otherwise, every batch is {}.
    period: Number of steps in a row that run all programs of the step.
  """

  abstract: state_lib.TrainState
  fresh: Callable[[], state_lib.TrainState]
  step: Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]
  schedule: Callable[[int], Any]
  flops: float
  reads_records: bool = True
  period: int = 1


def train(setup: Setup, workdir: epath.Path) -> bool:
  """Trains until the end or a stop signal; returns whether the run finished.

  Raises:
    NonFiniteError: after `train.max_bad_steps` non-finite steps in a row, or
      at the end of a run whose last step or most steps were not finite.
    SaveError: if a checkpoint cannot be written.
  """
  experiment = setup.experiment
  schedule, optimizer, abstract = plan(experiment, setup.mesh)
  train_step = make_train_step(
    experiment.model,
    experiment.objective,
    optimizer,
    experiment.ema,
    abstract,
    normalization_of(setup.records, experiment.data),
    experiment.train.accumulate,
    experiment.train.parameters,
  )
  task = TrainingTask(
    abstract,
    lambda: fresh(experiment, optimizer, setup.mesh),
    lambda n, *args: train_step(*args),
    schedule,
    training_flops(experiment),
  )
  return run(setup, workdir, task)


def run(setup: Setup, workdir: epath.Path, task: TrainingTask) -> bool:
  """Trains like the function `train`, but with the step of `task`."""
  experiment, settings = setup.experiment, setup.experiment.train
  logging.info(
    'Mesh %s of %s; %.2f M parameters.',
    dict(setup.mesh.shape), jax.devices()[0].device_kind,
    sum(x.size for x in jax.tree.leaves(backbone.shapes(experiment.model)))
    / 1e6,
  )  # fmt: skip
  write_json(workdir / LATENTS, setup.latents.to_json())
  if setup.previews.missing:
    logging.info('No previews: %s', setup.previews.missing)
  with (
    stop_on_signals() as stop,
    jax.set_mesh(setup.mesh),
    Snapshots(workdir, experiment.ema) as snapshots,
    Checkpointer(
      workdir,
      experiment.checkpoint,
      settings.steps_of(experiment.checkpoint.keep_every_images) or None,
    ) as checkpointer,
  ):
    state = checkpointer.restore(task.abstract)
    if state is None:
      state = task.fresh()
    start = int(state.step)
    bad_steps = checkpointer.bad_steps(start) if start else 0
    if start >= settings.steps:
      _plot(workdir)
      check_skipped(bad_steps, start)
      logging.info('Already trained: %d steps.', start)
      return True
    setup.scores.open()
    if stop.now():
      logging.info('%s: stopping before step %d.', stop.signal, start + 1)
      return False

    with (
      MetricsLog(
        workdir, start, dataclasses.asdict(experiment), experiment.log.wandb
      ) as log,
      progress_bar(
        total=settings.images,
        initial=start * settings.batch_size,
        unit=' images',
        desc='train',
      ) as bar,
    ):
      report = Report(
        experiment, task.schedule, task.flops, log, bar, bad_steps,
        compiling_until=start + task.period,
      )  # fmt: skip
      save = Saver(
        experiment, checkpointer, snapshots, report, setup.scores.rank
      )
      _announce_compilation(workdir)
      step, reason = _take_steps(setup, task, state, report, save, log, stop)
      checkpointer.wait()
      _plot(workdir)
      _log_end(setup, workdir, step, reason, report, checkpointer.latest_step)
  return step == settings.steps


def _announce_compilation(workdir: epath.Path) -> None:
  rows = read_metrics(workdir)
  times = [row['compile_seconds'] for row in rows if 'compile_seconds' in row]
  note = f' ({times[-1]:.0f} s at the last start)' if times else ''
  logging.info('Compiling the step%s.', note)


def _take_steps(
  setup: Setup,
  task: TrainingTask,
  state: state_lib.TrainState,
  report: Report,
  save: Saver,
  log: MetricsLog,
  stop: StopRequest,
) -> tuple[int, str]:
  """Runs training steps; returns the last step, and the stop signal or ''."""
  settings, previews, scores = (
    setup.experiment.train, setup.previews, setup.scores
  )  # fmt: skip
  start = int(state.step)
  stream = report.waiting(_batches(setup, task, start))
  key = jax.random.key(setup.experiment.seed)
  for step in range(start + 1, settings.steps + 1):
    batch, begin = next(stream), time.perf_counter()
    state, metrics = task.step(step - 1, state, batch, key)
    if step == start + 1:
      report.compiled(time.perf_counter() - begin)
    # `record` reads the metrics of the previous step, so devices never wait.
    reason = stop.after(step)  # called once: a signal may come at any time
    is_last = step == settings.steps or bool(reason)
    report.record(step, metrics, is_last)
    values = {}
    if scores.every and step % scores.every == 0 and not reason:
      with report.paused(step):
        values = scores.measure(state.ema, stop.now)
      if values:
        log.scalars(step, {'images': step * settings.batch_size, **values})
      else:
        reason, is_last = stop.signal, True
    save(state, step, is_last, values)
    if previews.every and step % previews.every == 0 and not reason:
      with report.paused(step):
        log.image(step, 'preview', previews.draw(state.ema))
    if reason:
      break
  return step, reason


def _batches(
  setup: Setup, task: TrainingTask, start: int
) -> Iterator[dict[str, Any]]:
  if not task.reads_records:
    return itertools.repeat({})
  return batches(
    setup.records,
    setup.experiment.data,
    setup.mesh,
    batch_size=setup.experiment.train.batch_size,
    seed=setup.experiment.seed,
    start=start,
  )


def _log_end(
  setup: Setup,
  workdir: epath.Path,
  step: int,
  reason: str,
  report: Report,
  saved_step: int | None,
) -> None:
  """Logs how a run ended; raises SaveError if a finite last step is unsaved."""
  if report.sound and saved_step != step:
    raise SaveError(f'step {step}, the last one, could not be saved.')
  if step == setup.experiment.train.steps:
    report.check_end(step, saved_step)
    logging.info('Trained %d steps; losses in %s/loss.png.', step, workdir)
  elif saved_step == step:
    logging.info('%s: saved step %d, stopping.', reason, step)
  else:
    logging.info(
      '%s: stopping at step %d, which is not finite; the newest checkpoint is '
      'that of step %s.',
      reason, step, saved_step,
    )  # fmt: skip


def plan(
  experiment: Experiment, mesh: Mesh
) -> tuple[optax.Schedule, optax.GradientTransformation, state_lib.TrainState]:
  """Returns the learning-rate schedule, the optimizer and an abstract state."""
  schedule = make_schedule(
    experiment.optimizer,
    batch_size=experiment.train.batch_size,
    total_images=experiment.train.images,
  )
  optimizer = make_optimizer(experiment.optimizer, schedule)
  state = state_lib.abstract(
    experiment.model,
    optimizer,
    mesh,
    averages=len(experiment.ema.widths),
    zero1=experiment.mesh.zero1,
    parameters=experiment.train.parameters,
  )
  return schedule, optimizer, state


def fresh(
  experiment: Experiment, optimizer: optax.GradientTransformation, mesh: Mesh
) -> state_lib.TrainState:
  """Returns the initial state; `train.init_from` may provide the weights."""
  state = state_lib.init(
    experiment.model,
    optimizer,
    mesh,
    experiment.seed,
    averages=len(experiment.ema.widths),
    zero1=experiment.mesh.zero1,
    parameters=experiment.train.parameters,
  )
  if not experiment.train.init_from:
    return state
  params = start_weights(experiment, mesh)

  def place(tree):
    loaded = jax.tree.map(
      lambda leaf, old: jax.device_put(
        jnp.array(leaf, old.dtype, copy=True), old.sharding
      ),
      params,
      {name: tree[name] for name in params},
    )
    return {**tree, **loaded}

  return dataclasses.replace(
    state,
    params=place(state.params),
    ema=place(state.ema),
    power=tuple(map(place, state.power)),
  )


def _plot(workdir: epath.Path) -> None:
  for figure in losses(read_metrics(workdir)).values():
    pictures.write_figure(workdir / 'loss.png', figure)
