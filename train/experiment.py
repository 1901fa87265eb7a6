"""Experiments: frozen dataclasses that are built from plain values."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from core.errors import InputError, quote
from core.nested import with_tuples
from core.ranges import (
  MOST_IMAGES,
  BatchSize,
  Choice,
  Images,
  PathText,
  Range,
  Seed,
  check_fields,
)
from core.renamed_keys import REMOVED
from dit import backbone, sharding
from dit.base import NetworkConfig
from evaluate.evaluator import EvalConfig
from guidance import parse
from input_pipeline.sources import DataConfig
from sample.generate import SampleConfig
from train.checkpointer import CheckpointConfig
from train.ema import EMAConfig
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig

# Devices count steps in int32.
MOST_STEPS = 2**31 - 1
PARAMETERS = ('all', 'taps')


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length and batch size of training; configs/base.py explains each field."""

  images: Annotated[int, Range(1, MOST_IMAGES)]
  batch_size: BatchSize
  max_bad_steps: Annotated[int, Range(1, 10**9)]
  accumulate: Annotated[int, Range(1, 2**20)] = 1
  init_from: PathText = ''
  parameters: Annotated[str, Choice(PARAMETERS)] = 'all'

  def __post_init__(self) -> None:
    check_fields('train', self)

  @property
  def steps(self) -> int:
    """Returns the total number of training steps."""
    return max(self.images // self.batch_size, 1)

  def steps_of(self, images: int) -> int:
    """Converts an interval in images to an interval in steps; 0 stays 0."""
    return max(images // self.batch_size, 1) if images else 0


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """Logging settings; configs/base.py explains each field."""

  every_images: Images
  preview_every_images: Images
  preview_guidance: str
  preview_num: Annotated[int, Range(1, 10_000)]
  wandb: str = ''

  def __post_init__(self) -> None:
    check_fields('log', self)
    parse(self.preview_guidance)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All settings of a run."""

  seed: Seed
  model: NetworkConfig
  objective: ObjectiveConfig
  optimizer: OptimizerConfig
  ema: EMAConfig
  data: DataConfig
  train: TrainConfig
  mesh: sharding.MeshConfig
  checkpoint: CheckpointConfig
  log: LogConfig
  sample: SampleConfig
  eval: EvalConfig

  def __post_init__(self) -> None:
    """Checks constraints between sections without using a device."""
    check_fields('', self)
    self.objective.weights(len(self.model.taps))
    if self.objective.label_dropout and not self.model.null_label:
      raise InputError(
        f'objective.label_dropout is {self.objective.label_dropout}, but '
        'model.null_label is false; set one of them right.'
      )
    self._check_guided_target()
    self._check_frozen()
    for key, images in (
      ('train.images', self.train.images),
      ('optimizer.warmup_images', self.optimizer.warmup_images),
      ('objective.guided_start_images', self.objective.guided_start_images),
    ):
      if images // self.train.batch_size > MOST_STEPS:
        raise InputError(
          f'{key} is {images}, which is more than {MOST_STEPS:,} steps of '
          f'train.batch_size={self.train.batch_size} images; lower it.'
        )

  def _check_guided_target(self) -> None:
    """Checks that the network has the weak prediction of guided targets."""
    weak, blocks = self.objective.guided_weak, self.objective.guided_blocks
    if not self.objective.guided_weight:
      return
    if weak == 'tap' and not self.model.taps:
      raise InputError(
        'objective.guided_weight needs a tap, whose prediction is the weak '
        'one; set model.taps, or objective.guided_weak.'
      )
    if weak == 'null' and not self.objective.label_dropout:
      raise InputError(
        'objective.guided_weak=null needs a network that learns the null '
        'label; set objective.label_dropout above 0.'
      )
    depth = self.model.depth
    if weak == 'skip' and not (blocks and max(blocks) < depth):
      raise InputError(
        f'objective.guided_blocks is {blocks}, expected the blocks that '
        f'guided_weak=skip leaves out, from 0 to {depth - 1}.'
      )

  def _check_frozen(self) -> None:
    """Checks that a run that trains only the taps has taps and a network."""
    if self.train.parameters == 'all':
      return
    for key, value in (
      ('model.taps', self.model.taps),
      ('train.init_from', self.train.init_from),
    ):
      if not value:
        raise InputError(
          f'train.parameters=taps needs {key}: it trains intermediate heads on '
          'the frozen network of train.init_from.'
        )
    if not any(self.objective.weights(len(self.model.taps))):
      raise InputError(
        'train.parameters=taps trains nothing: objective.intermediate_weights '
        'are 0; raise them.'
      )
    if self.objective.guided_weight or self.objective.cosine_weight:
      raise InputError(
        'train.parameters=taps freezes the output, which '
        'objective.guided_weight and cosine_weight train; set both to 0.'
      )


def sections_of(kind: type) -> dict[str, Any]:
  """Returns the dataclass of each section of an experiment.

  The section `model` maps to the dataclass of the first backbone, although the
  config key `model.name` may choose another backbone.
  """
  kinds = {
    field.name: field.type
    for field in dataclasses.fields(kind)
    if dataclasses.is_dataclass(field.type)
  }
  return {**kinds, 'model': backbone.BACKBONES[0].config}


SECTIONS = sections_of(Experiment)


def build(config: dict[str, Any]) -> Experiment:
  """Builds an experiment; raises InputError if values conflict."""
  return Experiment(**read_sections(config, SECTIONS))


def read_sections(
  config: dict[str, Any], kinds: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the arguments of an experiment: its seed and its sections.

  `config` has plain values by section, and `kinds` comes from `sections_of`.
  Raises InputError if a section or key is missing or unknown.
  """
  expected = {'seed', *kinds}
  # A student's config also has the section `distill`, which sampling ignores.
  if config.keys() - ({'distill'} - expected) != expected:
    raise InputError(
      f'the config has the sections {quote(sorted(config), 300)}, expected '
      f'{sorted(expected)}; is it of another version?'
    )
  for name in kinds:
    if not isinstance(config[name], dict):
      raise InputError(
        f'config section {name!r} is {quote(config[name])}, expected its keys.'
      )
  null_label = bool(config['objective'].get('label_dropout'))
  network_kind, network = backbone.settings_of(
    config['model'], null_label=null_label
  )
  sections = {**config, 'model': network}
  parts = {
    name: _part(name, kind, sections[name])
    for name, kind in {**kinds, 'model': network_kind}.items()
  }
  return {'seed': config['seed'], **parts}


def _part(name: str, kind: type, values: dict[str, Any]) -> Any:
  """Builds the dataclass of one section; JSON lists become tuples.

  Keys with defaults may be missing, as in configs of earlier versions. The
  default of a newer key reproduces the behavior before that key existed.
  """
  values = {k: v for k, v in values.items() if f'{name}.{k}' not in REMOVED}
  fields = {field.name: field for field in dataclasses.fields(kind)}
  missing_keys = [
    key
    for key, field in fields.items()
    if key not in values and field.default is dataclasses.MISSING
  ]
  if missing_keys or values.keys() - fields:
    raise InputError(
      f'config section {name!r} lacks {sorted(missing_keys)} and has '
      f'unknown {sorted(values.keys() - fields)}; is it of another version?'
    )
  return kind(**with_tuples(values))
