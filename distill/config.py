"""Settings of a distillation: the section `distill`, and derived ones."""

import dataclasses
from typing import Annotated

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

METHODS = ('', 'dmd', 'trajectory')
QUERIES = ('renoise', 'grid', 'trajectory')
SCHEDULES = ('shared', 'full', 'constrained', 'hybrid')
NORMALISERS = ('conditional', 'guided')
REGULARISERS = ('dm', 'mean_variance', 'gan', 'none')
FAKES = ('full', 'lora')
BRANCHES = ('', 'low', 'high')
MAX_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class DistillConfig:
  """Settings of distillation; configs/base.py describes every key.

  Attributes:
    teacher: run or folder of weights of the teacher.
    method: 'dmd' or 'trajectory'; '' for a run that is no student.
    guidance: guidance of the teacher, as text; what it adds is the CA term.
    query: points at which DMD evaluates both networks; one of QUERIES.
    schedule: schedule of the noise levels of both terms; one of SCHEDULES.
    normaliser: unit of the terms; one of NORMALISERS.
    regulariser: term beside CA; one of REGULARISERS.
    dm_weight: weight of the DM term.
    ca_weight: weight of the CA term.
    min_level: least noise level of the terms.
    max_level: greatest noise level of the terms.
    shift: shift of noise levels, as `sample.shift` is of times.
    moments: mean and standard deviation for 'mean_variance'; (): measured.
    fake: 'full' or 'lora'.
    lora_rank: rank of the low-rank changes.
    lora_scale: scale of the low-rank changes.
    fake_updates: updates of the fake denoiser for each of the student.
    fake_lr: learning rate of the fake denoiser; 0 for that of the student.
    gan_weight: weight of the student's adversarial loss; 0 for none.
    discriminator_weight: weight of the discriminator's loss, beside the fake's.
    discriminator_blocks: blocks whose outputs it sees; () for each third.
    discriminator_reset: probability that a head is drawn anew at a step.
    substeps: steps of the teacher in each interval of the student's grid.
    trajectory_weight: weight of the trajectory loss beside DMD.
    branch: times that are trained: '' all, 'low' to 0.5, 'high' above.
    stages: not empty: arguments of the config file, one after the other.
    merge_ratios: shares of the branch 'low' that the merge tries.
    level_beta: initial parameters of the Beta distribution of the noise levels
      of DM and of the fake denoiser's loss; (1, 1): always uniform.
    teacher_lora_scale: initial scale of the fake denoiser's low-rank changes in
      the real score; 0 for the teacher as it is.
    dynamic_updates: updates of the student until levels are uniform and the
      real score is the teacher's.
    step_per_image: whether each image draws the student's step, not the batch.
  """

  teacher: PathText
  method: Annotated[str, Choice(METHODS)]
  guidance: str
  query: Annotated[str, Choice(QUERIES)]
  schedule: Annotated[str, Choice(SCHEDULES)]
  normaliser: Annotated[str, Choice(NORMALISERS)]
  regulariser: Annotated[str, Choice(REGULARISERS)]
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
  trajectory_weight: Weight
  branch: Annotated[str, Choice(BRANCHES)]
  stages: tuple[str, ...]
  merge_ratios: Annotated[tuple[float, ...], Range(0, 1)]
  level_beta: Annotated[tuple[float, ...], Range(1e-3, 1e3)] = (1.0, 1.0)
  teacher_lora_scale: Weight = 0.0
  dynamic_updates: Annotated[int, Range(1, 10**9)] = 10_000
  step_per_image: bool = False

  def __post_init__(self) -> None:
    """Checks names and ranges."""
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
    known = all(term.name == 'cfg' for term in guidance.terms)
    if not known or guidance.rescale is not None:
      raise InputError(
        f'distill.guidance is {self.guidance!r}, expected ig, cfg or both, '
        'such as cfg:1.5@0-0.7 or ig:1.4,cfg:1.2.'
      )
    if self.branch and (self.method != 'dmd' or self.trajectory_weight):
      raise InputError(
        f'distill.branch {self.branch} is for DMD: the trajectory loss is of '
        'the whole grid; leave one of them out.'
      )
    if self.method == 'dmd':
      self._check_dmd()

  def _check_dmd(self) -> None:
    """Checks what belongs together."""
    if self.regulariser == 'gan' and not self.gan_weight:
      raise InputError(
        'distill.regulariser is gan, but distill.gan_weight is 0; set it.'
      )
    if self.teacher_lora_scale and not (self.fake == 'lora' and self.fakes):
      raise InputError(
        f'distill.teacher_lora_scale is {self.teacher_lora_scale:g}, but there '
        'is no fake denoiser with low-rank changes; set distill.fake=lora and '
        'a DM term, or distill.teacher_lora_scale=0.'
      )
    by_moments = self.regulariser == 'mean_variance' and self.dm_weight
    if not (
      self.matches
      or self.augmented
      or self.adversarial
      or by_moments
      or self.trajectory_weight
    ):
      raise InputError(
        f'distill.regulariser is {self.regulariser} of dm_weight '
        f'{self.dm_weight:g}, and distill.guidance adds nothing: no term is '
        'left; set one of them.'
      )
    if (
      self.normaliser == 'guided'
      and self.query == 'renoise'
      and self.schedule != 'shared'
    ):
      raise InputError(
        'distill.normaliser guided is for terms at one noise level; set '
        'distill.schedule=shared, or distill.normaliser=conditional.'
      )

  @property
  def teacher_guidance(self) -> Guidance:
    """The teacher's guidance; methods of scale 1 are left out."""
    guidance = parse(self.guidance)
    internal = guidance.internal
    if internal is not None and internal.scale.value == 1:
      internal = None
    return dataclasses.replace(
      guidance,
      internal=internal,
      terms=tuple(t for t in guidance.terms if t.scale.value != 1),
    )

  @property
  def augmented(self) -> bool:
    """Whether there is a CA term."""
    guidance = self.teacher_guidance
    guided = guidance.internal is not None or bool(guidance.terms)
    return guided and self.ca_weight > 0

  @property
  def adversarial(self) -> bool:
    """Whether there is a discriminator."""
    return self.method == 'dmd' and self.gan_weight > 0

  @property
  def matches(self) -> bool:
    """Whether there is a DM term."""
    return (
      self.method == 'dmd' and self.regulariser == 'dm' and self.dm_weight > 0
    )

  @property
  def fakes(self) -> bool:
    """Whether the method has a fake denoiser."""
    return self.matches or self.adversarial

  @property
  def period(self) -> int:
    """Steps for each update of the student: those of the fake denoiser."""
    return self.fake_updates if self.fakes else 1
