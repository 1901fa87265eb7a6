"""Reports the size and cost of a job without running it.

Without a topology, all figures are computed from array shapes, for the local
devices. With a topology such as v5p:4x4x4, libtpu also compiles the program for
TPU chips of that topology, which need not be attached.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from commands.hlo import collectives
from core.errors import InputError
from core.nested import flatten
from distill import run as distilling
from distill.config import StudentExperiment
from distill.step import abstract
from dit import backbone
from dit.path import path_named
from dit.sharding import (
  batch_parts,
  batch_sharding,
  make_mesh,
  replicated,
)
from dit.weights.restore import weights_like
from guidance import parse
from guidance.parse import describe
from sample.generate import Sampler
from sample.sampler import sample as draw
from train.experiment import Experiment
from train.loop import plan
from train.progress import peak_flops, training_flops
from train.setup import check_settings
from train.step import make_train_step

# Memory per chip in GiB, as published.
MEMORY_GIB = {
  'TPU v4': 32,
  'TPU v5 lite': 16,
  'TPU v5': 95,
  'TPU v5p': 95,
  'TPU v6 lite': 32,
}


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    trace: Tracing time in seconds.
    seconds: Compilation time in seconds.
    arguments: Memory of the arguments on each chip, in GiB.
    temporaries: Memory of intermediate values and new result buffers, in GiB.
    sent: Count and bytes of each kind of collective; None if libtpu provides no
      text of the compiled program.
    refused: Reason why XLA did not compile the program; '' for success.
  """

  trace: float
  seconds: float
  arguments: float = math.nan
  temporaries: float = math.nan
  sent: dict[str, tuple[int, int]] | None = None
  refused: str = ''


def train(experiment: Experiment, topology: str | None) -> str:
  """Returns a report on the train step.

  `topology` names the TPU chips to compile for; None compiles nothing, and uses
  only array shapes. Raises InputError if the topology is unknown or cannot run
  the step.
  """
  experiment, mesh = placed(experiment, topology)
  settings, network = experiment.train, experiment.model
  check_settings(experiment, mesh)
  _, state, _, _ = train_program(experiment, mesh)
  flops = training_flops(experiment)
  parts = {
    'parameters': state.params,
    'averages': (state.ema, state.power),
    'optimizer': state.opt_state,
  }
  lines = [
    *_describe(experiment, mesh),
    f'a pass: {network.pass_multiply_adds / 1e9:.2f} G multiply-adds an image; '
    f'training: {flops / 1e9:.1f} GFLOP an image, '
    f'{flops * settings.batch_size / 1e12:.3g} TFLOP a step of '
    f'{settings.batch_size} images '
    f'({settings.batch_size // batch_parts(mesh)} on each device'
    + f', in {settings.accumulate} parts' * (settings.accumulate > 1)
    + f'); {settings.steps:,} steps',
    _memory(parts),
  ]
  if peak := peak_flops(mesh.devices.flat[0]):
    least = flops * settings.batch_size / (mesh.size * peak)
    lines.append(f'at the peak of the chips a step takes {1e3 * least:.1f} ms')
  if topology:
    program = compile_train(experiment, mesh)
    lines += _report(program, mesh, 'step')
  return '\n'.join(lines)


def distill(experiment: StudentExperiment) -> str:
  """Returns a report on distillation; raises InputError if it cannot run."""
  plan = distilling.check(experiment)
  settings, student = experiment.train, experiment.model
  state = abstract(
    plan.distillation,
    distilling.make_rules(experiment)[1],
    plan.setup.mesh,
    zero1=experiment.mesh.zero1,
  )
  teacher = weights_like(plan.distillation.teacher, plan.setup.mesh)
  passes = plan.distillation.passes()
  flops = 2 * passes * student.pass_multiply_adds
  parts = {
    'teacher': teacher,
    'parameters': state.params,
    'average': (state.ema, state.power),
    'fake denoiser': state.fake,
    'optimizers': (state.opt_state, state.fake_opt_state),
  }
  count = settings.batch_size // batch_parts(plan.setup.mesh)
  return '\n'.join(
    [
      *_describe(experiment, plan.setup.mesh),
      f'teacher {plan.teacher.place}, a student of '
      f'{len(plan.distillation.times) - 1} steps',
      f'a step: {passes:.4g} passes an image, a backward pass as two; '
      f'{flops * settings.batch_size / 1e12:.3g} TFLOP for '
      f'{settings.batch_size} images ({count} on each device); '
      f'{settings.steps:,} steps',
      _memory(parts),
    ]
  )


def sample(experiment: Experiment, guidance: str, topology: str | None) -> str:
  """Returns a report on the sampler, excluding the decoder; see `train`."""
  experiment, mesh = placed(experiment, topology)
  method = parse(guidance)
  weights = weights_like(experiment.model, mesh, 'float32')
  sampler = Sampler(
    backbone.bind(experiment.model, weights),
    experiment.sample,
    path_named(experiment.objective.path),
    experiment.model.latent_shape,
    mesh,
  )
  sampler.check(method)
  nfe = sampler.nfe(method, 0)
  rows = experiment.sample.batch_size
  lines = [
    *_describe(experiment, mesh),
    f'guidance {describe(method)}, {len(sampler.grid) - 1} '
    f'steps of {experiment.sample.solver}, NFE '
    + ('unknown' if nfe is None else f'{nfe:.4g}'),
    f'{rows} images at once, {rows // batch_parts(mesh)} on each device; '
    f'weights on each device: {_gib(weights):.3f} GiB',
  ]
  if nfe is not None:
    flops = 2 * nfe * experiment.model.pass_multiply_adds
    lines.append(f'{flops / 1e12:.3g} TFLOP an image')
  if topology:
    program = compiled(lambda: sample_program(sampler, method), mesh)
    lines += _report(program, mesh, 'call')
  return '\n'.join(lines)


def placed(
  experiment: Experiment, topology: str | None
) -> tuple[Experiment, Mesh]:
  """Returns the experiment (bfloat16 by default on a topology) and the mesh."""
  devices = topology_devices(topology) if topology else None
  network = experiment.model
  if topology and network.dtype == 'auto':
    network = dataclasses.replace(network, dtype='bfloat16')
  mesh = make_mesh(experiment.mesh, devices)
  backbone.check_mesh(mesh, network, zero1=experiment.mesh.zero1)
  return dataclasses.replace(experiment, model=network), mesh


def topology_devices(topology: str) -> list[jax.Device]:
  """Returns the chips of a topology such as v5e:16x16, attached or not.

  Raises InputError if libtpu is missing, or does not know the topology.
  """
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),  # libtpu skips the cloud's metadata server
    (
      'ALLOW_MULTIPLE_LIBTPU_LOAD',
      '1',
    ),  # several processes may load libtpu, since none uses a device
    ('TPU_STDERR_LOG_LEVEL', '3'),
    ('TPU_MIN_LOG_LEVEL', '3'),
  ):
    os.environ.setdefault(name, value)
  jax.config.update('jax_platforms', 'cpu')
  try:
    grid = topologies.get_topology_desc(platform='tpu', topology_name=topology)
  except Exception as error:  # libtpu raises errors of many classes
    raise InputError(
      f'--topology={topology} is not available '
      f'({" ".join(str(error).split())[:200]}); expected a name such as '
      'v5e:4x4, v6e:8x8 or v5p:4x4x4, and the package libtpu '
      '(requirements-tpu.txt).'
    ) from error
  return list(grid.devices)


def train_program(experiment: Experiment, mesh: Mesh) -> tuple[Any, ...]:
  """Returns the train step and the shapes of its state, batch and key."""
  settings, network, data = (
    experiment.train, experiment.model, experiment.data,
  )  # fmt: skip
  _, optimizer, state = plan(experiment, mesh)
  step = make_train_step(
    network,
    experiment.objective,
    optimizer,
    experiment.ema,
    state,
    accumulate=settings.accumulate,
    parameters=settings.parameters,
  )

  def rows(dtype, *shape):
    return jax.ShapeDtypeStruct(
      (settings.batch_size, *shape), dtype, sharding=batch_sharding(mesh)
    )

  *sides, channels = network.latent_shape
  batch = {'label': rows(jnp.int32)}
  if data.autoencoder == 'pixels':
    batch['image'] = rows(jnp.uint8, *sides, channels)
  else:
    batch['moments'] = rows(jnp.float16, *sides, 2 * channels)
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = jax.ShapeDtypeStruct((), key.dtype, sharding=replicated(mesh))
  return step, state, batch, key


def sample_program(sampler: Sampler, method: Any) -> Any:
  """Returns the sampling program, lowered for the shapes of the weights."""
  config = sampler.config
  method = jax.tree.map(
    lambda leaf: leaf if np.ndim(leaf) else float(leaf), method
  )
  row = jax.ShapeDtypeStruct(
    (config.batch_size,), jnp.int32, sharding=batch_sharding(sampler.mesh)
  )
  with config.precision():
    return draw.lower(
      sampler.denoiser,
      method,
      row,
      row,
      sampler.grid,
      np.uint32(0),
      sampler.integration,
    )


def compile_train(experiment: Experiment, mesh: Mesh) -> Program:
  """Compiles the train step."""
  step, *shapes = train_program(experiment, mesh)
  return compiled(lambda: step.lower(*shapes), mesh)


def compiled(lower: Callable[[], Any], mesh: Mesh) -> Program:
  """Compiles a program; if XLA fails, the result's `refused` has the reason."""
  begin = time.perf_counter()
  with jax.set_mesh(mesh):
    stages = lower()
  trace, begin = time.perf_counter() - begin, time.perf_counter()
  try:
    program = stages.compile()
  except jax.errors.JaxRuntimeError as error:
    reason = ' '.join(str(error).split())[:200]
    return Program(trace, time.perf_counter() - begin, refused=reason)
  seconds = time.perf_counter() - begin
  memory = program.memory_analysis()
  extra = memory.output_size_in_bytes - memory.alias_size_in_bytes
  try:
    traffic = collectives(program.as_text())
  except jax.errors.JaxRuntimeError:  # `as_text` may fail in libtpu 0.0.52
    traffic = None
  return Program(
    trace,
    seconds,
    memory.argument_size_in_bytes / 2**30,
    (memory.temp_size_in_bytes + extra) / 2**30,
    traffic,
  )


def _describe(experiment: Experiment, mesh: Mesh) -> list[str]:
  settings = flatten(dataclasses.asdict(experiment))
  settings.pop('model.patch', None)  # model.name contains the patch size
  settings['model.name'] = backbone.name_of(experiment.model)
  shapes = jax.tree.leaves(backbone.shapes(experiment.model))
  device = mesh.devices.flat[0].device_kind
  return [
    *(f'{key} = {value!r}' for key, value in sorted(settings.items())),
    '',
    f'{sum(leaf.size for leaf in shapes):,} parameters',
    f'mesh {dict(mesh.shape)}: {mesh.size} x {device}',
  ]


def _report(program: Program, mesh: Mesh, unit: str) -> list[str]:
  device = mesh.devices.flat[0].device_kind
  room = MEMORY_GIB.get(device)
  if program.refused:
    return [f'not compiled for {device} of {room} GiB: {program.refused}']
  total = program.arguments + program.temporaries
  limit = '' if room is None else f' of {room}: it fits'
  lines = ['  unknown: libtpu gives no text of the program']
  if program.sent is not None:
    lines = [
      f'  {kind}: {count:,} of {size / 2**30:.3f} GiB in all'
      for kind, (count, size) in sorted(program.sent.items())
    ]
  return [
    f'compiled in {program.seconds:.0f} s',
    f'on each chip, GiB: arguments {program.arguments:.2f}, temporaries '
    f'{program.temporaries:.2f}; in all {total:.2f}{limit}',
    f'sent in a {unit}:',
    *(lines or ['  nothing']),
  ]


def _memory(parts: Mapping[str, Any]) -> str:
  sizes = {name: _gib(tree) for name, tree in parts.items()}
  return (
    'on each device, GiB: '
    + ', '.join(f'{name} {size:.3f}' for name, size in sizes.items())
    + f'; in all {sum(sizes.values()):.3f}, without gradients and activations '
    '(train --dry_run --topology measures them)'
  )


def _gib(tree: Any) -> float:
  """Returns the memory of a tree of arrays on each device, in GiB."""
  return (
    sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(tree)
    )
    / 2**30
  )
