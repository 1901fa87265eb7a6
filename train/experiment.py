"""A whole experiment, as frozen dataclasses, made from plain values once."""

import dataclasses
from typing import Any

from dit import sharding
from dit.config import DiTConfig, network_of
from dit.errors import InputError
from guidance import parse
from sample.compare import CompareConfig
from sample.generate import SampleConfig
from train.checkpoint import CheckpointConfig
from train.data.prepare import PrepareConfig
from train.data.source import DataConfig
from train.distill.config import DistillConfig
from train.ema import EMAConfig
from train.evaluation import EvalConfig
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long to train, in images seen.

  Attributes:
    images: in all.
    batch_size: of the global batch.
    max_bad_steps: non-finite steps in a row that stop the run.
    accumulate: parts of a batch that are computed one after the other.
    init_from: run or folder whose weights a fresh run starts with; '' for none.
  """

  images: int
  batch_size: int
  max_bad_steps: int
  accumulate: int = 1
  init_from: str = ''

  @property
  def steps(self) -> int:
    """Training steps in all."""
    return max(self.images // self.batch_size, 1)

  def steps_of(self, images: int) -> int:
    """An interval in images as steps; 0 stays 0."""
    return max(images // self.batch_size, 1) if images else 0


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """What a run reports, and how often in images seen; 0: never.

  Attributes:
    every_images: between lines of metrics.
    preview_every_images: between grids of samples.
    preview_guidance: theirs.
    preview_num: images of a grid.
    preview_autoencoder: what decodes them.
    wandb: project of Weights & Biases; '' for none.
  """

  every_images: int
  preview_every_images: int
  preview_guidance: str
  preview_num: int
  preview_autoencoder: str = ''
  wandb: str = ''


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Every setting of a run."""

  seed: int
  model: DiTConfig
  objective: ObjectiveConfig
  optimizer: OptimizerConfig
  ema: EMAConfig
  data: DataConfig
  prepare: PrepareConfig
  train: TrainConfig
  mesh: sharding.MeshConfig
  checkpoint: CheckpointConfig
  log: LogConfig
  sample: SampleConfig
  eval: EvalConfig
  compare: CompareConfig
  distill: DistillConfig

  def __post_init__(self) -> None:
    """Checks what concerns more than one part; touches no device."""
    for name in ('every_images', 'preview_every_images'):
      if getattr(self.log, name) < 0:
        raise InputError(
          f'log.{name} is {getattr(self.log, name)}, expected at least 0.'
        )
    self.objective.weights(len(self.model.taps))
    if self.objective.label_dropout and not self.model.null_label:
      raise InputError(
        f'objective.label_dropout is {self.objective.label_dropout}, but '
        'model.null_label is false; set one of them right.'
      )
    for name in ('images', 'batch_size', 'max_bad_steps', 'accumulate'):
      if getattr(self.train, name) < 1:
        raise InputError(
          f'train.{name} is {getattr(self.train, name)}, expected at least 1.'
        )
    if self.objective.guided_weight and not self.model.taps:
      raise InputError(
        'objective.guided_weight needs a tap, whose prediction is the weak '
        'one; set model.taps.'
      )
    parse(self.log.preview_guidance)
    if self.log.preview_num < 1:
      raise InputError(
        f'log.preview_num is {self.log.preview_num}, expected at least 1; '
        'log.preview_every_images=0 draws no previews.'
      )
    if not 0 <= self.seed < 2**32:
      raise InputError(f'seed is {self.seed}, expected 0 to 2^32 - 1.')


SECTIONS = {
  field.name: field.type
  for field in dataclasses.fields(Experiment)
  if isinstance(field.type, type) and dataclasses.is_dataclass(field.type)
}


def build(config: dict[str, Any]) -> Experiment:
  """Turns plain values into the experiment; InputError where they disagree."""
  if config.keys() != {'seed', *SECTIONS}:
    raise InputError(
      f'the config has the sections {sorted(config)}, expected '
      f'{sorted(["seed", *SECTIONS])}; is it of another version?'
    )
  null_label = bool(config['objective'].get('label_dropout'))
  network = network_of(config['model'], null_label=null_label)
  sections = {**config, 'model': network}
  parts = {
    name: _part(name, kind, sections[name]) for name, kind in SECTIONS.items()
  }
  return Experiment(seed=config['seed'], **parts)


def _part(name: str, kind: type, values: dict[str, Any]) -> Any:
  """One section as its dataclass; JSON's lists become tuples again.

  Keys may be missing where they have a default: those that later versions add
  default to what was there before.
  """
  fields = {field.name: field for field in dataclasses.fields(kind)}
  lacks = [
    key
    for key, field in fields.items()
    if key not in values and field.default is dataclasses.MISSING
  ]
  if lacks or values.keys() - fields:
    raise InputError(
      f'config section {name!r} lacks {sorted(lacks)} and has '
      f'unknown {sorted(values.keys() - fields)}; is it of another version?'
    )
  return kind(
    **{
      key: tuple(value) if isinstance(value, list) else value
      for key, value in values.items()
    }
  )
