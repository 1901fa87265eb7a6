"""Training, in acts: devices, data, state, steps, the end.

The same command continues a run: the state comes from the newest complete
checkpoint, and everything else is a function of (seed, step). What is repeated
is a `Task`: a step of training, or of distillation (`train.distill`).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging
from etils import epath
from jax.sharding import Mesh

from core import cluster
from core.errors import InputError
from core.files import write_json
from core.progress import progress_bar
from core.signals import stop_on_signals
from dit import model
from dit.sharding import check_batch, check_model, make_mesh
from dit.weights.checkpoint import steps_of
from input_pipeline.batches import batches
from input_pipeline.sources import (
  about_latents,
  check_source,
  normalisation_of,
  open_source,
)
from sample import pictures
from train import state as state_lib
from train.checkpoint import Checkpointer, SaveError
from train.experiment import Experiment
from train.metrics_log import MetricsLog, check_wandb, read_metrics
from train.optimizer import make_optimizer, make_schedule
from train.plots import losses
from train.posthoc_ema import Snapshots
from train.previews import Preview, Scores
from train.progress import Report, check_skipped, training_flops
from train.runs import check_start, start_weights, with_decoder
from train.saver import Saver
from train.step import make_train_step
from train.workdir import LATENTS


@dataclasses.dataclass(frozen=True)
class Task:
  """The step that a run repeats, and its surroundings.

  Attributes:
    abstract: shapes, dtypes and shardings of the state, a `TrainState`.
    fresh: function that makes the state before the first step.
    step: function of (n, state, batch, key) to state and metrics, n being the
      number of the step, from 0; it must equal `state.step`.
    schedule: function of n to the learning rate of step n.
    source: records to read batches of; None: every batch is {}.
    latents: the record of the data that the run keeps; see `about_latents`.
    flops: operations of a step for each image of the batch; a multiply-add is
      2.
  """

  abstract: state_lib.TrainState
  fresh: Callable[[], state_lib.TrainState]
  step: Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]
  schedule: Callable[[int], Any]
  source: Any
  latents: dict[str, Any]
  flops: float


def check_settings(experiment: Experiment, mesh: Mesh) -> None:
  """Raises InputError for what no machine could train; needs no data."""
  noise = experiment.objective.prediction == 'noise'
  if noise != (experiment.model.convention == 'noise'):
    raise InputError(
      f'model.convention is {experiment.model.convention}, but '
      f'objective.prediction is {experiment.objective.prediction}; only both '
      'or neither may be noise (configs/dit.py).'
    )
  check_wandb(experiment.log.wandb)
  check_model(mesh, experiment.model, zero1=experiment.mesh.zero1)
  check_batch(
    mesh,
    experiment.train.batch_size,
    'train.batch_size',
    experiment.train.accumulate,
  )


def check(
  experiment: Experiment,
  workdir: epath.PathLike | None = None,
  autoencoder: str | None = None,
) -> dict[str, Any]:
  """Checks the settings; returns what the run is to remember of its data.

  Args:
    experiment: every setting.
    workdir: workdir of the run; one that has begun needs no other weights.
    autoencoder: decoder of latents, as text; None for the remembered one.

  Raises:
    InputError: for a run that cannot work here; nothing is compiled.
  """
  mesh = make_mesh(experiment.mesh)
  check_settings(experiment, mesh)
  source = open_source(experiment.data, experiment.data.train_split)
  check_source(source, experiment.data, experiment.model)
  if experiment.data.test_split:
    open_source(experiment.data, experiment.data.test_split)
  about = about_latents(source, experiment.data)
  about = with_decoder(about, experiment, workdir, autoencoder, mesh)
  Preview(experiment, about, mesh)
  Scores(experiment, about, mesh)
  if experiment.train.init_from and not (workdir and steps_of(workdir)):
    check_start(experiment)
  return about


def train(
  experiment: Experiment, workdir: epath.Path, autoencoder: str | None = None
) -> bool:
  """Trains until the end, or until asked to stop.

  Args:
    experiment: every setting.
    workdir: folder of the run; see `train.workdir`.
    autoencoder: decoder of latents, as text; None for the remembered one.

  Returns:
    Whether it came to its end.

  Raises:
    InputError: for what cannot run here.
    NonFiniteError: after `train.max_bad_steps` non-finite steps in a row, and
      at the end of a run of which most steps were not finite.
    SaveError: if a checkpoint cannot be written.
  """
  about = check(experiment, workdir, autoencoder)
  mesh = make_mesh(experiment.mesh)
  schedule, optimizer, abstract = plan(experiment, mesh)
  source = open_source(experiment.data, experiment.data.train_split)
  train_step = make_train_step(
    experiment.model,
    experiment.objective,
    optimizer,
    experiment.ema,
    abstract,
    normalisation_of(source, experiment.data),
    experiment.train.accumulate,
  )
  task = Task(
    abstract,
    lambda: fresh(experiment, optimizer, mesh),
    lambda n, *args: train_step(*args),
    schedule,
    source,
    about,
    training_flops(experiment),
  )
  return run(experiment, workdir, mesh, task)


def run(
  experiment: Experiment, workdir: epath.Path, mesh: Mesh, task: Task
) -> bool:
  """Repeats a task until its end, or until asked to stop.

  Args:
    experiment: every setting, checked.
    workdir: folder of the run; see `train.workdir`.
    mesh: the devices.
    task: what to repeat.

  Returns:
    Whether it came to its end.

  Raises:
    NonFiniteError, SaveError: as `train`.
  """
  # Devices.
  config, settings = experiment.model, experiment.train
  logging.info(
    'Mesh %s of %s; %.2f M parameters.',
    dict(mesh.shape), jax.devices()[0].device_kind,
    sum(leaf.size for leaf in jax.tree.leaves(model.shapes(config))) / 1e6,
  )  # fmt: skip

  # State: of the newest checkpoint, or fresh.
  write_json(workdir / LATENTS, task.latents)
  preview = Preview(experiment, task.latents, mesh)
  scores = Scores(experiment, task.latents, mesh)
  if preview.missing:
    logging.info('No previews: %s', preview.missing)
  with (
    stop_on_signals() as stop,
    jax.set_mesh(mesh),
    Snapshots(
      workdir,
      experiment.ema,
    ) as snapshots,
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

    scores.open()
    if stop.now():
      logging.info('%s: stopping before step %d.', stop.signal, start + 1)
      return False

    # Data, from the step that comes next.
    stream: Iterator[dict[str, Any]] = itertools.repeat({})
    if task.source is not None:
      stream = batches(
        task.source,
        experiment.data,
        mesh,
        batch_size=settings.batch_size,
        seed=experiment.seed,
        start=start,
      )

    # Steps.
    with (
      MetricsLog(
        workdir,
        start,
        dataclasses.asdict(experiment),
        experiment.log.wandb,
      ) as log,
      progress_bar(
        total=settings.images,
        initial=start * settings.batch_size,
        unit=' images',
        desc='train',
      ) as bar,
    ):
      report = Report(
        experiment, task.schedule, task.flops, log, bar, bad_steps
      )
      save = Saver(experiment, checkpointer, snapshots, report, scores.rank)
      stream = report.waiting(stream)
      logging.info('Compiling the step.')
      key = jax.random.key(experiment.seed)
      for step in range(start + 1, settings.steps + 1):
        state, metrics = task.step(step - 1, state, next(stream), key)
        # Reads the step before this one, so that the devices are never idle.
        stopping = stop.signal  # once: it may come at any line
        if jax.distributed.is_initialized() and cluster.preempted(step):
          stopping = 'SIGTERM'
        last = step == settings.steps or bool(stopping)
        report(step, metrics, last)
        values = {}
        if scores.every and step % scores.every == 0 and not stopping:
          report.flush()
          values = scores(state.ema, stop.now)
          if values:
            log.scalars(step, {'images': step * settings.batch_size, **values})
          else:
            stopping, last = stop.signal, True
          report.resume(step)
        save(state, step, last, values)
        if preview.every and (step % preview.every == 0) and not stopping:
          report.flush()
          log.image(step, 'preview', preview(state.ema))
          report.resume(step)
        if stopping:
          break
      checkpointer.wait()
      saved = checkpointer.latest_step
      if report.sound and saved != step:
        raise SaveError(f'step {step}, the last one, could not be saved.')
      _plot(workdir)
      # The end.
      if step == settings.steps:
        report.check_end(step, saved)
        logging.info('Trained %d steps; losses in %s/loss.png.', step, workdir)
      elif saved == step:
        logging.info('%s: saved step %d, stopping.', stopping, step)
      else:
        logging.info(
          '%s: stopping at step %d, which is not finite; the newest checkpoint '
          'is that of step %s.',
          stopping, step, saved,
        )  # fmt: skip
  return step == settings.steps


def plan(
  experiment: Experiment, mesh: Mesh
) -> tuple[optax.Schedule, optax.GradientTransformation, state_lib.TrainState]:
  """Learning rate, optimizer, and shapes of the state on the mesh."""
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
  )
  return schedule, optimizer, state


def fresh(
  experiment: Experiment, optimizer: optax.GradientTransformation, mesh: Mesh
) -> state_lib.TrainState:
  """The state before the first step, of `train.init_from` if it says so."""
  state = state_lib.init(
    experiment.model,
    optimizer,
    mesh,
    experiment.seed,
    averages=len(experiment.ema.widths),
    zero1=experiment.mesh.zero1,
  )
  if not experiment.train.init_from:
    return state
  params = start_weights(experiment, mesh)

  def placed(tree):
    return jax.tree.map(
      lambda leaf, old: jax.device_put(
        jnp.array(leaf, old.dtype, copy=True), old.sharding
      ),
      params,
      tree,
    )

  return dataclasses.replace(
    state,
    params=placed(state.params),
    ema=placed(state.ema),
    power=tuple(map(placed, state.power)),
  )


def _plot(workdir: epath.Path) -> None:
  """Draws the losses so far."""
  figure = losses(read_metrics(workdir))
  if figure is not None:
    pictures.write_figure(workdir / 'loss.png', figure)
