"""What a distillation is told: the section `distill`, and what it implies."""

import dataclasses

from dit.errors import InputError, check_choice, check_range
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
  """How a student is made; see configs/base.py for every key.

  Attributes:
    teacher: run or folder of weights.
    method: 'dmd' or 'trajectory'; '' for a run that is no student.
    guidance: of the teacher, as text; what it adds is the CA term.
    query: where DMD asks both networks; one of QUERIES.
    schedule: noise levels of the two terms; one of SCHEDULES.
    normaliser: of the terms; one of NORMALISERS.
    regulariser: what stands beside CA; one of REGULARISERS.
    dm_weight: of the DM term.
    ca_weight: of the CA term.
    min_level: least noise level of the terms.
    max_level: greatest.
    shift: of noise levels, as `sample.shift` of times.
    moments: mean and standard deviation for 'mean_variance'; (): measured.
    fake: 'full' or 'lora'.
    lora_rank: of the low-rank changes.
    lora_scale: of them.
    fake_updates: of the fake denoiser for each update of the student.
    fake_lr: its learning rate; 0 for that of the student.
    gan_weight: of the adversarial loss of the student; 0 for none.
    discriminator_weight: of the discriminator's loss, beside the fake's.
    discriminator_blocks: whose outputs it sees; () for each third.
    discriminator_reset: probability that a head is drawn anew at a step.
    substeps: of the teacher in each interval of the student's grid.
    trajectory_weight: of the trajectory loss beside DMD.
    branch: times that are trained: '' all, 'low' to 0.5, 'high' above.
    stages: not empty: arguments of the config file, one after the other.
    merge_ratios: of the branch 'low', to be tried.
  """

  teacher: str
  method: str
  guidance: str
  query: str
  schedule: str
  normaliser: str
  regulariser: str
  dm_weight: float
  ca_weight: float
  min_level: float
  max_level: float
  shift: float
  moments: tuple[float, ...]
  fake: str
  lora_rank: int
  lora_scale: float
  fake_updates: int
  fake_lr: float
  gan_weight: float
  discriminator_weight: float
  discriminator_blocks: tuple[int, ...]
  discriminator_reset: float
  substeps: int
  trajectory_weight: float
  branch: str
  stages: tuple[str, ...]
  merge_ratios: tuple[float, ...]

  def __post_init__(self) -> None:
    """Checks names and ranges."""
    for name, choices in (
      ('method', METHODS),
      ('query', QUERIES),
      ('schedule', SCHEDULES),
      ('normaliser', NORMALISERS),
      ('regulariser', REGULARISERS),
      ('fake', FAKES),
      ('branch', BRANCHES),
    ):
      check_choice(f'distill.{name}', getattr(self, name), choices)
    infinite = float('inf')
    for name, low, high in (
      ('dm_weight', 0, infinite),
      ('ca_weight', 0, infinite),
      ('min_level', 0, self.max_level),
      ('max_level', 0, 1),
      ('shift', 1e-6, infinite),
      ('lora_rank', 1, infinite),
      ('lora_scale', 0, infinite),
      ('fake_updates', 1, infinite),
      ('fake_lr', 0, infinite),
      ('gan_weight', 0, infinite),
      ('discriminator_weight', 0, infinite),
      ('discriminator_reset', 0, 1),
      ('substeps', 1, infinite),
      ('trajectory_weight', 0, infinite),
    ):
      check_range(f'distill.{name}', getattr(self, name), low, high)
    for ratio in self.merge_ratios:
      check_range('distill.merge_ratios', ratio, 0, 1)
    moments = self.moments
    numbers = all(isinstance(value, int | float) for value in moments)
    fits = numbers and len(moments) in (0, 2)
    if not fits or (moments and moments[1] <= 0):
      raise InputError(
        f'distill.moments is {moments}, expected a mean and a positive '
        'standard deviation, or () to measure them.'
      )
    for name, kind in (('discriminator_blocks', int), ('stages', str)):
      if not all(type(value) is kind for value in getattr(self, name)):
        raise InputError(
          f'distill.{name} is {getattr(self, name)}, expected values of type '
          f'{kind.__name__}.'
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
  def period(self) -> int:
    """Steps for each update of the student: those of the fake denoiser."""
    return self.fake_updates if self.matches or self.adversarial else 1
