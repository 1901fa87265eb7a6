"""Distills one student: checks the settings, then runs the training loop."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import optax
from absl import logging
from etils import epath

from core.errors import InputError
from core.files import write_json
from distill import lineage
from distill import step as step_lib
from distill.config import MAX_STEPS, DistillConfig, StudentExperiment
from distill.noise_levels import trained_steps
from distill.objective import Distillation
from dit import backbone, model
from dit.base import NetworkConfig
from dit.config import DiTConfig
from dit.latents import LatentSpace, Normalization
from dit.path import Linear, path_named
from dit.sharding import make_mesh
from dit.weights.checkpoint_names import saved_steps
from input_pipeline.batches import batches
from input_pipeline.sources import (
  check_source,
  latent_space_of,
  normalization_of,
  open_source,
)
from sample.solvers import Euler, Renoise
from train import loop
from train.checkpointer import restore_training
from train.experiment import Experiment
from train.optimizer import make_optimizer, make_schedule
from train.runs import Source, check_same, check_task, check_unquantized
from train.setup import Setup, check_settings, make_setup
from train.step import latents_of
from train.workdir import TEACHER, claim

_MEASURED = 4096  # number of images for measuring the moments of latents


@dataclasses.dataclass(frozen=True)
class Plan:
  """A checked distillation with its opened data and decoder.

  Attributes:
    setup: Setup of the student's run, already checked.
    teacher: Run or folder of the teacher.
    network: Experiment of the teacher.
    start: Run or folder of the student's initial parameters.
    distillation: Losses of the student. If they need moments of latents that
      the config lacks, `distill` measures these moments later.
  """

  setup: Setup
  teacher: Source
  network: Experiment
  start: Source
  distillation: Distillation


def check(
  experiment: StudentExperiment,
  workdir: epath.PathLike | None = None,
  autoencoder: str | None = None,
) -> Plan:
  """Checks that a student can be distilled, without compiling anything.

  Args:
    experiment: Settings of the student.
    workdir: Workdir of the run. Runs with checkpoints need no initial weights.
    autoencoder: Name or path of the decoder; None for the stored decoder.
  """
  config = experiment.distill
  if not config.teacher:
    raise InputError('--teacher is needed: a run, or a folder of weights.')
  mesh = make_mesh(experiment.mesh)
  check_settings(experiment, mesh)
  if experiment.model.taps:
    raise InputError(
      f'model.taps is {experiment.model.taps}, but a student has none; set '
      'model.taps=().'
    )
  if experiment.ema.widths:
    raise InputError('ema.widths are for training; a student has ema.decay.')
  if experiment.train.accumulate > 1:
    raise InputError('train.accumulate is for training; lower the batch size.')
  teacher = Source.at(config.teacher)
  network = teacher.open(())
  check_unquantized(teacher)
  check_task(f'the teacher {config.teacher}', network, experiment)
  teacher.check()
  config.teacher_guidance.check(
    backbone.bind(network.model, {}), network.model.latent_shape
  )
  _check_grid(experiment)
  start = Source.at(experiment.train.init_from or config.teacher)
  if not (workdir and saved_steps(workdir)):
    check_same(experiment, start, but=('taps', 'tap_head'))
    start.check()
  source = None
  if config.adversarial or _measures(config):
    source = open_source(experiment.data, experiment.data.train_split)
    check_source(source, experiment.data, experiment.model)
  latents = teacher.latents()
  if source is not None and latents != LatentSpace():
    _check_latents(latent_space_of(source, experiment.data), latents)
  distillation = distillation_of(experiment, network.model)
  _check_backbone(distillation)
  setup = make_setup(experiment, mesh, source, latents, workdir, autoencoder)
  return Plan(setup, teacher, network, start, distillation)


def distillation_of(
  experiment: StudentExperiment, teacher: NetworkConfig
) -> Distillation:
  """Returns the losses of an experiment; `teacher` is the teacher's network."""
  path = path_named(experiment.objective.path)
  solver = experiment.sample.make_solver(path)
  assert isinstance(solver, Euler | Renoise)  # `_check_grid` rejects others
  # The teacher runs with the student's values of these settings.
  changes = {
    key: getattr(experiment.model, key)
    for key in ('dtype', 'param_dtype', 'attention', 'remat', 'scan')
    if hasattr(experiment.model, key) and hasattr(teacher, key)
  }
  return Distillation(
    config=experiment.distill,
    student=experiment.model,
    teacher=dataclasses.replace(teacher, **changes),
    path=path,
    solver=solver,
    times=tuple(experiment.sample.grid(path).tolist()),
    batch_size=experiment.train.batch_size,
    moments=experiment.distill.moments,
  )


def distill(
  experiment: StudentExperiment,
  place: epath.PathLike,
  config: dict[str, Any],
  autoencoder: str | None = None,
  *,
  extensible: bool = True,
) -> bool:
  """Trains a student; returns False if a stop signal ends training early.

  Args:
    experiment: Settings of the student.
    place: Workdir of the run.
    config: Experiment as plain values, which the workdir stores.
    autoencoder: Name or path of the decoder; None for the stored decoder.
    extensible: Whether a resumed run may change `train.images`.

  Raises:
    InputError: if the student cannot be distilled; the workdir is unchanged.
    NonFiniteError, SaveError: See `loop.train`.
  """
  plan = check(experiment, place, autoencoder)
  settings, mesh = experiment.distill, plan.setup.mesh
  schedule, rules = make_rules(experiment)
  teacher, metadata = plan.teacher.load(plan.network, mesh)
  metadata = {'place': settings.teacher, **metadata}
  metadata['sha256'] = model.fingerprint(teacher)
  metadata |= lineage.fake_of(settings)
  lineage.check_known(place, metadata)
  workdir = claim(place, config, extensible=extensible)
  write_json(workdir / TEACHER, metadata)
  normalization = Normalization()
  if plan.setup.records is not None:
    normalization = normalization_of(plan.setup.records, experiment.data)
  distillation = plan.distillation
  if _measures(settings):
    moments = measured(plan.setup, normalization)
    logging.info(
      'Latents have mean %.4g and standard deviation %.4g.', *moments
    )
    distillation = dataclasses.replace(distillation, moments=moments)
  abstract = step_lib.abstract(
    distillation, rules, mesh, zero1=experiment.mesh.zero1
  )

  def init():
    student, _ = plan.start.load(plan.start.open(()), mesh)
    _, student = backbone.without_taps(experiment.model, student)
    init_jit = jax.jit(
      step_lib.fresh,
      static_argnums=(0, 1),
      out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
    )
    state = init_jit(distillation, rules, student, teacher, experiment.seed)
    if lineage.continues_fake(experiment, plan.start):
      logging.info('The fake denoiser resumes from %s.', plan.start.place)
      source = restore_training(plan.start.place, abstract)
      state = dataclasses.replace(
        state, fake=source['fake'], fake_opt_state=source['fake_opt_state']
      )
    return state

  task = loop.TrainingTask(
    abstract,
    init,
    step_lib.make_distill_step(
      distillation, rules, abstract, teacher, normalization
    ),
    lambda n: schedule(n // settings.period),
    2 * distillation.passes() * experiment.model.pass_multiply_adds,
    reads_records=settings.adversarial,
    period=settings.period,
  )
  return loop.run(plan.setup, workdir, task)


def measured(setup: Setup, normalization: Normalization) -> tuple[float, float]:
  """Returns the mean of latents, and the root of the images' mean variance."""
  experiment, size = setup.experiment, setup.experiment.train.batch_size
  stream = batches(
    setup.records,
    experiment.data,
    setup.mesh,
    batch_size=size,
    seed=experiment.seed,
    start=0,
  )

  @jax.jit
  def moments(batch, key):
    x, _ = latents_of(batch, normalization, key)
    return x.mean(), x.var((1, 2, 3)).mean()

  mean, variance = np.mean(
    [
      jax.device_get(moments(batch, jax.random.key(n)))
      for n, batch in enumerate(itertools.islice(stream, -(-_MEASURED // size)))
    ],
    axis=0,
  )
  return float(mean), float(variance**0.5)


def make_rules(
  experiment: StudentExperiment,
) -> tuple[optax.Schedule, step_lib.Rules]:
  """Returns the student's learning-rate schedule, and the steps' `Rules`."""
  settings, period = experiment.train, experiment.distill.period

  def make_rule(config):
    schedule = make_schedule(
      config,
      batch_size=settings.batch_size * period,
      total_images=settings.images,
    )
    return schedule, make_optimizer(config, schedule)

  schedule, student = make_rule(experiment.optimizer)
  fake_config = dataclasses.replace(
    experiment.optimizer,
    lr=experiment.distill.fake_lr or experiment.optimizer.lr,
    weight_decay=0.0,
    schedule='constant',
    warmup_images=0,
  )
  _, fake = make_rule(fake_config)
  return schedule, step_lib.Rules(student, fake, experiment.ema)


def _measures(config: DistillConfig) -> bool:
  return (
    config.method == 'dmd'
    and config.regularizer == 'mean_variance'
    and not config.moments
  )


def _check_latents(ours: LatentSpace, theirs: LatentSpace) -> None:
  for key in ('autoencoder', 'normalization'):
    our_value, value = (space.to_json().get(key) for space in (ours, theirs))
    if our_value != value:
      raise InputError(
        f'the data have {key} {our_value}, the latents of the teacher {value}; '
        "set the section data of the config as the teacher's run has it."
      )


def _check_grid(experiment: StudentExperiment) -> None:
  config, sampling = experiment.distill, experiment.sample
  path = path_named(experiment.objective.path)
  grid = sampling.grid(path)
  steps = len(grid) - 1
  if sampling.spacing == 'edm':
    raise InputError(
      f'sample.spacing is edm, whose times start at {grid[0]:.4g}, but a '
      'student starts from noise at t = 1; choose another spacing.'
    )
  if steps > MAX_STEPS:
    raise InputError(
      f"the student's grid has {steps} steps, expected 1 to {MAX_STEPS}; "
      'lower sample.steps.'
    )
  solver = sampling.make_solver(path)
  if type(solver) not in (Euler, Renoise):
    raise InputError(
      f'sample.solver is {sampling.solver}, but a student samples with renoise '
      '(DMD) or euler (SD3.5-Flash); set it.'
    )
  if type(solver) is Euler and type(path) is not Linear:
    raise InputError(
      'a student with sample.solver=euler needs objective.path=linear, not '
      f'{experiment.objective.path}: on other paths its last step does not end '
      'at x0; choose renoise.'
    )
  if config.method == 'dmd' and config.query != 'renoise':
    if steps < 2:
      raise InputError(
        f'distill.query {config.query} needs times between the ends of the '
        "student's grid, and one step has none; set sample.steps to 2 or more, "
        'or distill.query=renoise.'
      )
    if config.query == 'student_trajectory' and type(solver) is not Euler:
      raise InputError(
        'distill.query student_trajectory is for a student that samples with '
        f'sample.solver=euler, not {sampling.solver}.'
      )
  if config.branch and not len(trained_steps(config.branch, grid)):
    raise InputError(
      f'distill.branch {config.branch} has no step of the grid '
      f'{", ".join(f"{t:.3g}" for t in grid)}; leave it out.'
    )


def _check_backbone(distillation: Distillation) -> None:
  """Raises InputError if a loss does not support the teacher's backbone."""
  config = distillation.config
  transformer = isinstance(distillation.teacher, DiTConfig)
  for key, condition in (
    ('distill.fake=lora', config.fakes and config.fake == 'lora'),
    ('distill.teacher_lora_scale', config.teacher_lora_scale),
    ('a discriminator', config.adversarial),
  ):
    if condition and not transformer:
      raise InputError(
        f'{key} is for the transformers of dit/model.py, but the teacher is a '
        f'{backbone.name_of(distillation.teacher)}; choose distill.fake=full, '
        'teacher_lora_scale=0 and distill.gan_weight=0.'
      )
  if not transformer:
    return
  for block in distillation.blocks:
    if not 1 <= block <= distillation.teacher.depth:
      raise InputError(
        f'distill.discriminator_blocks has {block}, expected 1 to '
        f'{distillation.teacher.depth}.'
      )
