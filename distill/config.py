"""Settings of a distillation run: those of training, and section `distill`."""

import dataclasses
from typing import Annotated, Any

from core.errors import InputError, check_range, quote
from core.ranges import (
  LARGE,
  Choice,
  Fraction,
  LearningRate,
  PathText,
  Range,
  Weight,
  check_fields,
)
from guidance import Guidance, parse
from train.experiment import Experiment, read_sections, sections_of

METHODS = ('dmd', 'teacher_trajectory')
QUERIES = ('renoise', 'grid', 'student_trajectory')
SCHEDULES = ('shared', 'full', 'constrained', 'hybrid')
NORMALIZERS = ('conditional', 'guided')
REGULARIZERS = ('dm', 'mean_variance', 'gan', 'none')
FAKES = ('full', 'lora')
BRANCHES = ('', 'low', 'high')
MAX_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class DistillConfig:
  """Settings of distillation; configs/distill/base.py explains each field."""

  teacher: PathText
  method: Annotated[str, Choice(METHODS)]
  guidance: str
  query: Annotated[str, Choice(QUERIES)]
  schedule: Annotated[str, Choice(SCHEDULES)]
  normalizer: Annotated[str, Choice(NORMALIZERS)]
  regularizer: Annotated[str, Choice(REGULARIZERS)]
  dm_weight: Weight
  ca_weight: Weight
  min_level: Fraction
  max_level: Fraction
  shift: Annotated[float, Range(1e-3, 1e3)]
  moments: Annotated[tuple[float, ...], Range(-LARGE, LARGE)]
  fake: Annotated[str, Choice(FAKES)]
  lora_rank: Annotated[int, Range(1, 65_536)]
  lora_scale: Weight
  fake_updates: Annotated[int, Range(1, 10**6)]
  fake_lr: LearningRate
  gan_weight: Weight
  discriminator_weight: Weight
  discriminator_blocks: Annotated[tuple[int, ...], Range(0, 10_000)]
  discriminator_reset: Fraction
  substeps: Annotated[int, Range(1, 1000)]
  branch: Annotated[str, Choice(BRANCHES)]
  stages: tuple[str, ...]
  merge_ratios: Annotated[tuple[float, ...], Range(0, 1)]
  level_beta: Annotated[tuple[float, ...], Range(1e-3, 1e3)] = (1.0, 1.0)
  teacher_lora_scale: Weight = 0.0
  dynamic_updates: Annotated[int, Range(1, 10**9)] = 10_000
  step_per_image: bool = False

  def __post_init__(self) -> None:
    check_fields('distill', self)
    check_range('distill.min_level', self.min_level, 0, self.max_level)
    if len(self.level_beta) != 2:
      raise InputError(
        f'distill.level_beta is {quote(self.level_beta)}, expected two '
        'numbers, such as (4.0, 1.5), or (1.0, 1.0) for uniform levels.'
      )
    moments = self.moments
    if len(moments) not in (0, 2) or (moments and moments[1] <= 0):
      raise InputError(
        f'distill.moments is {quote(moments)}, expected a mean and a positive '
        'standard deviation, or () to measure them.'
      )
    guidance = self.teacher_guidance
    is_cfg = all(term.name == 'cfg' for term in guidance.terms)
    if not is_cfg or guidance.rescale is not None:
      raise InputError(
        f'distill.guidance is {self.guidance!r}, expected ig, cfg or both, '
        'such as cfg:1.5@0-0.7 or ig:1.4,cfg:1.2.'
      )
    if self.branch and self.method != 'dmd':
      raise InputError(
        f'distill.branch {self.branch} is for DMD: the trajectory loss covers '
        'the whole grid; leave it out.'
      )
    if self.method == 'dmd':
      self._check_dmd()

  def _check_dmd(self) -> None:
    if self.regularizer == 'gan' and not self.gan_weight:
      raise InputError(
        'distill.regularizer is gan, but distill.gan_weight is 0; set it.'
      )
    if self.teacher_lora_scale and not (self.fake == 'lora' and self.fakes):
      raise InputError(
        f'distill.teacher_lora_scale is {self.teacher_lora_scale:g}, but there '
        'is no fake denoiser with low-rank changes; set distill.fake=lora and '
        'a DM term, or distill.teacher_lora_scale=0.'
      )
    has_moments = self.regularizer == 'mean_variance' and self.dm_weight
    if not (self.matches or self.augmented or self.adversarial or has_moments):
      raise InputError(
        f'distill.regularizer is {self.regularizer} with dm_weight '
        f'{self.dm_weight:g}, and distill.guidance adds nothing: no term is '
        'left; set one of them.'
      )
    if (
      self.normalizer == 'guided'
      and self.query == 'renoise'
      and self.schedule != 'shared'
    ):
      raise InputError(
        'distill.normalizer guided is for terms at one noise level; set '
        'distill.schedule=shared, or distill.normalizer=conditional.'
      )

  @property
  def teacher_guidance(self) -> Guidance:
    """Returns the teacher's guidance, without methods whose scale is 1."""
    guidance = parse(self.guidance)
    internal = guidance.internal
    terms = tuple(t for t in guidance.terms if t.scale.value != 1)
    if internal is not None and not any(term.uses_null for term in terms):
      internal = dataclasses.replace(
        internal, null=None, null_low=None, null_high=None
      )
    if internal is not None and internal.scale.value == 1:
      internal = None if internal.null in (None, 1) else internal
    return dataclasses.replace(guidance, internal=internal, terms=terms)

  @property
  def augmented(self) -> bool:
    """Returns whether the student's loss has a CA term."""
    guidance = self.teacher_guidance
    has_guidance = guidance.internal is not None or bool(guidance.terms)
    return has_guidance and self.ca_weight > 0

  @property
  def adversarial(self) -> bool:
    """Returns whether the distillation uses a discriminator."""
    return self.method == 'dmd' and self.gan_weight > 0

  @property
  def matches(self) -> bool:
    """Returns whether the student's loss has a DM term."""
    return (
      self.method == 'dmd' and self.regularizer == 'dm' and self.dm_weight > 0
    )

  @property
  def fakes(self) -> bool:
    """Returns whether the distillation uses a fake denoiser."""
    return self.matches or self.adversarial

  @property
  def period(self) -> int:
    """Returns the number of training steps per update of the student."""
    return self.fake_updates if self.fakes else 1


@dataclasses.dataclass(frozen=True)
class StudentExperiment(Experiment):
  """All settings of a distillation run."""

  distill: DistillConfig


def build_student(config: dict[str, Any]) -> StudentExperiment:
  """Builds a student's experiment; raises InputError for an invalid config."""
  if 'distill' not in config:
    raise InputError(
      'the config has no section distill: it is not that of a student; choose '
      'one of configs/distill/.'
    )
  return StudentExperiment(
    **read_sections(config, sections_of(StudentExperiment))
  )
