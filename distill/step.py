"""Distillation steps, which update the fake denoiser and sometimes the student.

If the period is P, every step n (from 0) updates the fake denoiser. If P also
divides n + 1, the step then updates the student as well. The two kinds of steps
are two jitted programs, and the host selects the program by n. All state is in
`DistillState`, so a run can resume within a period. The teacher is an argument
and not part of the state, so no step can change the teacher.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh

from distill import discriminator, lora
from distill.objective import Distillation
from dit import backbone, latents
from dit.base import NetworkConfig, Params
from dit.sharding import placed
from train import ema
from train.state import TrainState
from train.step import Batch, Metrics, accept, compiled, latents_of

_NO_LATENTS = latents.Normalization()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistillState(TrainState):
  """The training state of the student and the fake denoiser.

  Attributes:
    fake: Tree of 'network' (parameters or low-rank changes) and 'heads' of the
      discriminator; {} without a fake denoiser.
    fake_opt_state: Optimizer state of `fake`.
  """

  fake: Any
  fake_opt_state: Any


@dataclasses.dataclass(frozen=True)
class Rules:
  """The optimizers of student and fake denoiser, and the EMA settings."""

  student: optax.GradientTransformation
  fake: optax.GradientTransformation
  ema: ema.EMAConfig


def fresh(
  distillation: Distillation,
  rules: Rules,
  student: Params,
  teacher: Params,
  seed: int,
) -> DistillState:
  """Returns the initial state.

  Args:
    distillation: Losses of the student.
    rules: Optimizers and EMA settings.
    student: Initial parameters of the student.
    teacher: Parameters of the teacher, from which the fake denoiser starts.
    seed: Random seed of low-rank changes and of the discriminator.
  """
  # No training step has the number 2**32 - 1, so no step uses this key.
  key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)
  network_key, heads_key = jax.random.split(key)
  fake, config = {}, distillation.config
  if config.fakes:
    if config.fake == 'lora':
      network = lora.init(
        distillation.fake_config, config.lora_rank, network_key
      )
    else:
      network = _copy(backbone.without_taps(distillation.teacher, teacher))
    fake['network'] = network
  if config.adversarial:
    fake['heads'] = _heads(distillation, heads_key)
  params = _copy((distillation.student, student))
  return DistillState(
    step=jnp.int32(0),
    bad_steps=jnp.int32(0),
    params=params,
    ema=jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params),
    power=(),
    opt_state=rules.student.init(params),
    fake=fake,
    fake_opt_state=rules.fake.init(fake),
  )


def abstract(
  distillation: Distillation, rules: Rules, mesh: Mesh, *, zero1: bool = False
) -> DistillState:
  """Returns shapes, dtypes and shardings of a state without allocating it."""
  shapes = jax.eval_shape(
    functools.partial(fresh, distillation, rules, seed=0),
    backbone.shapes(distillation.student),
    backbone.shapes(distillation.teacher),
  )

  def shard(name):
    # The state of the fake denoiser is shaped like the teacher.
    of_fake = name in ('fake', 'fake_opt_state')
    return backbone.shardings(
      distillation.teacher if of_fake else distillation.student,
      getattr(shapes, name),
      mesh,
      zero1=zero1 and name not in ('params', 'fake'),
    )

  names = [field.name for field in dataclasses.fields(shapes)]
  shardings = dataclasses.replace(shapes, **{n: shard(n) for n in names})
  return placed(shapes, shardings)


def make_distill_step(
  distillation: Distillation,
  rules: Rules,
  abstract_state: DistillState,
  teacher: Params,
  normalization: latents.Normalization = _NO_LATENTS,
) -> Callable[..., tuple[DistillState, Metrics]]:
  """Builds the training step of a distillation.

  Args:
    distillation: Losses of the student.
    rules: Optimizers and EMA settings.
    abstract_state: Shapes and shardings of the state, from `abstract`.
    teacher: Parameters of the teacher, placed on the mesh.
    normalization: Normalization of latents, for records of moments.

  Returns:
    A function from (n, state, batch, key) to (state, metrics). n is the number
    of previous steps and must equal `state.step`.
  """
  config = distillation.config

  def step(due, state, teacher, batch, key):
    key = jax.random.fold_in(key, state.step)
    fake_key, student_key = jax.random.split(key)
    new, losses = state, []
    metrics: Metrics = {}
    if state.fake:
      new, *sizes, extras = _update_fake(
        distillation, rules, normalization, new, teacher, batch, fake_key
      )
      metrics |= extras
      losses += sizes
    if due:
      new, *sizes, extras = _update_student(
        distillation, rules, new, teacher, student_key
      )
      metrics |= extras
      losses += sizes
    new = accept(new, state, jnp.isfinite(jnp.stack(losses)).all())
    return new, {'loss': losses[0], **metrics, 'bad_steps': new.bad_steps}

  programs = {
    due: compiled(functools.partial(step, due), abstract_state)
    for due in (False, True)
  }

  started: set[bool] = set()

  def run(n, state, batch, key):
    due = (n + 1) % config.period == 0
    if started == {not due}:  # the training loop announces the first program
      kind = 'with' if due else 'without'
      logging.info('Compiling the step %s an update of the student.', kind)
    started.add(due)
    return programs[due](state, teacher, batch, key)

  return run


def _update_fake(
  distillation: Distillation,
  rules: Rules,
  normalization: latents.Normalization,
  state: DistillState,
  teacher: Params,
  batch: Batch,
  key: jax.Array,
) -> tuple[DistillState, jax.Array, jax.Array, Metrics]:
  config = distillation.config
  label_key, data_key, reset_key, which_key, key = jax.random.split(key, 5)
  label, real = distillation.draw_labels(label_key), None
  if config.adversarial:
    latent, _ = latents_of(batch, normalization, data_key)
    real = latent, batch['label']
    heads = discriminator.reset(
      state.fake['heads'],
      _heads(distillation, reset_key),
      which_key,
      config.discriminator_reset,
    )
    state = dataclasses.replace(state, fake={**state.fake, 'heads': heads})
  count = state.step // config.period  # number of the student's updates
  (loss, metrics), grads = jax.value_and_grad(
    distillation.fake_loss, has_aux=True
  )(state.fake, state.params, teacher, label, real, key, count)
  updates, opt_state = rules.fake.update(
    grads, state.fake_opt_state, state.fake
  )
  fake = optax.apply_updates(state.fake, updates)
  metrics['distill/fake_grad_norm'] = norm = optax.tree.norm(grads)
  metrics['distill/fake_param_norm'] = optax.tree.norm(fake)
  state = dataclasses.replace(state, fake=fake, fake_opt_state=opt_state)
  return state, loss, norm, metrics


def _update_student(
  distillation: Distillation,
  rules: Rules,
  state: DistillState,
  teacher: Params,
  key: jax.Array,
) -> tuple[DistillState, jax.Array, jax.Array, Metrics]:
  label_key, key = jax.random.split(key)
  label = distillation.draw_labels(label_key)
  count = state.step // distillation.config.period  # number of student updates
  (loss, metrics), grads = jax.value_and_grad(
    distillation.student_loss, has_aux=True
  )(state.params, state.fake, teacher, label, key, count)
  updates, opt_state = rules.student.update(
    grads, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  norm = optax.tree.norm(grads)
  metrics |= {
    'loss/student': loss,
    'grad_norm': norm,
    'update_norm': optax.tree.norm(updates),
    'param_norm': optax.tree.norm(params),
  }
  state = dataclasses.replace(
    state,
    params=params,
    ema=ema.update(rules.ema, state.ema, params, count),
    opt_state=opt_state,
  )
  return state, loss, norm, metrics


def _heads(distillation: Distillation, key: jax.Array) -> Params:
  count = len(distillation.blocks)
  return discriminator.init(distillation.teacher, count, key)


def _copy(network: tuple[NetworkConfig, Params]) -> Params:
  """Copies arrays as `param_dtype`; a step donates the arrays of its state."""
  config, params = network
  return jax.tree.map(
    lambda p: jnp.array(p, config.param_dtype, copy=True), params
  )
