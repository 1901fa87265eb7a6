"""Few-step students: settings shared by all data sets.

An argument METHOD,STEPS names one of

  dm            DMD with an unguided teacher, without the CA term
  shared        DMD2 with a guided teacher; CA and DM share one noise level
  full, constrained, hybrid
                Decoupled DMD (arXiv 2511.22677) with this noise schedule
  flash         the recipe of SD3.5-Flash (arXiv 2509.21318), with the stages
                trajectory, sharing, low and high
"""

import ml_collections

from configs.distill import base

SCHEDULES = ('shared', 'full', 'constrained', 'hybrid')
FLASH = ('trajectory', 'sharing', 'low', 'high')
METHODS = ('dm', *SCHEDULES, 'flash', *FLASH)
# Train steps of the stages of SD3.5-Flash on a CPU (published student updates:
# trajectory 2000, sharing 800, low 400, high 400).
_SHORT = {'trajectory': 400, 'sharing': 300, 'low': 100, 'high': 100}


def parse(argument: str) -> tuple[str, int]:
  """Splits METHOD,STEPS; raises ValueError for other text."""
  method, _, steps = argument.partition(',')
  if method not in METHODS or not steps.isdigit() or int(steps) < 1:
    raise ValueError(
      f'{argument!r} is not METHOD,STEPS with methods {", ".join(METHODS)} and '
      'at least one step',
      [method] * (method not in METHODS),
      METHODS,
    )
  return method, int(steps)


def configure(
  config: ml_collections.ConfigDict,
  method: str,
  steps: int,
  *,
  guidance: str,
  before: str = '',
) -> None:
  """Turns a config of the teacher's data and network into a student's config.

  Args:
    config: Config to change.
    method: Method, one of METHODS.
    steps: Number of the student's steps.
    guidance: Guidance of the teacher, if the method is guided.
    before: Text before METHOD,STEPS in the argument of a stage.
  """
  base.add_section(config)
  config.model.taps = ()
  config.objective.guided_weight = 0.0
  config.sample.solver = 'renoise'
  config.sample.steps = steps
  config.sample.last_step_size = 0.0
  config.log.preview_guidance = 'none'
  config.optimizer.b1 = 0.0
  config.optimizer.warmup_images = 0
  if method != 'dm':
    config.distill.guidance = guidance
  if method in SCHEDULES:
    config.distill.schedule = method
  if method == 'shared':
    config.distill.normalizer = 'guided'
  if method not in ('flash', *FLASH):
    return
  config.sample.solver = 'euler'
  config.distill.query = 'student_trajectory'
  config.distill.normalizer = 'guided'
  if method == 'flash':
    config.distill.stages = tuple(f'{before}{stage},{steps}' for stage in FLASH)
  elif method == 'trajectory':
    config.distill.method = 'teacher_trajectory'
  else:
    config.distill.gan_weight = 1e-3
    config.distill.discriminator_reset = 0.005
  if method in ('low', 'high'):
    config.distill.branch = method
    config.ema.decay = 0.99


def configure_short(
  config: ml_collections.ConfigDict,
  argument: str,
  *,
  guidance: str,
  decoupled: str,
) -> ml_collections.ConfigDict:
  """Returns a student's config, with training in minutes on a CPU.

  Args:
    config: Config of the teacher, which is changed.
    argument: Text METHOD,STEPS.
    guidance: Guidance of the teacher.
    decoupled: Guidance of the teacher for methods whose terms have separate
      normalizers, which need a smaller alpha.
  """
  method, steps = parse(argument)
  if method in ('full', 'constrained', 'hybrid'):
    guidance = decoupled
  configure(config, method, steps, guidance=guidance)
  config.optimizer.lr = 1e-3
  config.ema.decay = 0.99
  config.distill.fake_updates = 2
  config.eval.num = 2000  # images for each ratio of a merge
  batch = config.train.batch_size = 64
  if method == 'trajectory':
    batch = config.train.batch_size = 16  # trajectories per batch
    config.distill.substeps = 4
  if method in ('sharing', 'low', 'high'):
    config.optimizer.lr = 2e-4
    config.optimizer.schedule = 'constant'
  config.train.images = _SHORT.get(method, 800) * batch
  config.log.every_images = 10 * batch
  config.log.preview_every_images = 500 * batch
  config.checkpoint.every_images = 250 * batch
  return config
