"""The state of the page of `explore`: the values of its inputs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dial:
  """Scale and interval of one method, as set by its sliders."""

  name: str
  scale: float = 1.0
  low: float = 0.0
  high: float = 1.0

  @property
  def text(self) -> str:
    """Guidance text of this method, which omits the interval if it is off.

    Raises InputError if the interval is empty.
    """
    if self.scale == 1 or (self.low, self.high) == (0, 1):
      return f'{self.name}:{self.scale:g}'
    if self.low >= self.high:
      raise InputError(
        f'The interval of {self.name} is empty: its lowest time {self.low:g} '
        f'must be below its highest time {self.high:g}. Move one of the two '
        'sliders.'
      )
    return f'{self.name}:{self.scale:g}@{self.low:g}-{self.high:g}'


@dataclasses.dataclass(frozen=True)
class Settings:
  """The state of the page.

  Attributes:
    dials: One dial for each method of `Explorer.methods`.
    text: Guidance text that replaces the dials; '' for the dials.
    steps: Number of solver steps.
    solver: Name of the solver.
    seed: Random seed of all noise.
    classes: Class of each image.
  """

  dials: tuple[Dial, ...]
  text: str
  steps: int
  solver: str
  seed: int
  classes: tuple[int, ...]

  @classmethod
  def of_page(
    cls,
    methods: Sequence[str],
    dials: Sequence[float],
    text: str | None,
    steps: Any,
    solver: str,
    seed: Any,
    classes: Sequence[int],
  ) -> 'Settings':
    """Returns the settings for the values of the page's inputs.

    `dials` lists scale, low and high of each method. Raises InputError if an
    input is empty.
    """
    if steps is None or seed is None:
      raise InputError('Enter a number of steps and a seed.')
    if not classes:
      raise InputError('Select at least one class.')
    values = np.reshape(dials, (len(methods), 3)).tolist()
    return cls(
      tuple(Dial(m, *v) for m, v in zip(methods, values, strict=True)),
      (text or '').strip(),
      int(steps),
      solver,
      int(seed),
      tuple(map(int, classes)),
    )

  @property
  def guidance(self) -> str:
    """Guidance as text, without methods that are off."""
    active = (dial.text for dial in self.dials if dial.scale != 1)
    return self.text or ','.join(active) or 'none'

  @property
  def program(self) -> str:
    """Guidance as text, with all methods, so that no dial compiles."""
    return self.text or ','.join(dial.text for dial in self.dials) or 'none'
