"""A whole experiment, as frozen dataclasses; made from the config by main."""

import dataclasses

from dit import sharding
from dit.config import DiTConfig
from dit.types import InputError
from guidance import parse
from sample.compare import CompareConfig
from sample.generate import SampleConfig
from train.checkpoint import CheckpointConfig
from train.data.source import DataConfig
from train.ema import EMAConfig
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long to train, in images seen.

  Attributes:
    images: in all.
    batch_size: of the global batch.
    max_bad_steps: non-finite steps in a row that stop the run.
  """

  images: int
  batch_size: int
  max_bad_steps: int

  @property
  def steps(self) -> int:
    """Training steps in all."""
    return max(self.images // self.batch_size, 1)

  def steps_of(self, images: int) -> int:
    """An interval in images as steps; 0 stays 0."""
    return max(images // self.batch_size, 1) if images else 0


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """What a run reports, and how often in images seen; 0: never."""

  every_images: int
  preview_every_images: int
  preview_guidance: str
  preview_num: int


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Every setting of a run."""

  seed: int
  model: DiTConfig
  objective: ObjectiveConfig
  optimizer: OptimizerConfig
  ema: EMAConfig
  data: DataConfig
  train: TrainConfig
  mesh: sharding.MeshConfig
  checkpoint: CheckpointConfig
  log: LogConfig
  sample: SampleConfig
  compare: CompareConfig

  def __post_init__(self) -> None:
    """Checks what concerns more than one part; touches no device."""
    self.objective.weights(len(self.model.taps))
    for name in ('images', 'batch_size', 'max_bad_steps'):
      if getattr(self.train, name) < 1:
        raise InputError(
          f'train.{name} is {getattr(self.train, name)}, expected at least 1.'
        )
    if self.checkpoint.every_images < 1 or self.checkpoint.keep < 1:
      raise InputError(
        'checkpoint.every_images and checkpoint.keep must be at least 1.'
      )
    self.sample.grid()
    for text in (self.log.preview_guidance, *self.compare.methods):
      parse(text)
