"""Saves snapshots of power-function averages, and combines the snapshots.

snapshots/STEP/WIDTH    float32 average, saved by Orbax; see `train.ema`
"""

import re
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from core.errors import InputError, reason
from core.ranges import check_value
from dit.base import NetworkConfig, Params
from dit.weights.restore import weights_like
from train.checkpointer import save_errors
from train.ema import WIDTHS, EMAConfig, coefficients

_WHAT = 'a snapshot of the averages'


def folder_of(workdir: epath.PathLike) -> epath.Path:
  """Returns the folder of the EMA snapshots of a run."""
  return epath.Path(workdir).expanduser().resolve() / 'snapshots'


class Snapshots:
  """A context manager that writes the snapshots of a run."""

  def __init__(self, workdir: epath.Path, config: EMAConfig) -> None:
    """Opens or creates `workdir`/snapshots if `config` has widths."""
    self._widths, self._manager = config.widths, None
    if config.widths:
      self._manager = ocp.CheckpointManager(
        folder_of(workdir),
        options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True),
      )

  def __enter__(self) -> 'Snapshots':
    return self

  def __exit__(self, *error: Any) -> None:
    if self._manager:
      with save_errors(_WHAT):
        self._manager.close()

  def save(self, power: tuple[Params, ...], step: int) -> None:
    """Starts to write a snapshot unless this step already has a snapshot."""
    manager = self._manager
    if not manager or step in manager.all_steps():
      return
    items = {
      str(width): ocp.args.StandardSave(tree)
      for width, tree in zip(self._widths, power, strict=True)
    }
    with save_errors(_WHAT):
      manager.save(step, args=ocp.args.Composite(**items))


def reconstruct(
  workdir: epath.PathLike,
  config: NetworkConfig,
  mesh: jax.sharding.Mesh,
  width: float,
  step: int | None = None,
) -> tuple[Params, int]:
  """Returns the power-function average of `width`, and its step.

  Raises InputError if there are no snapshots, or no snapshot at `step`.

  Args:
    workdir: Folder of the run.
    config: Configuration of the network.
    mesh: Devices that receive the average.
    width: Relative width; it may differ from the widths of the snapshots.
    step: Step of the average; None for the step of the newest snapshot.
  """
  check_value('--weights=ema:WIDTH', width, Annotated[float, WIDTHS])
  folder = folder_of(workdir)
  steps = sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []
  if not steps:
    raise InputError(
      f'no snapshots in {folder}: a run writes them with ema.widths; take '
      '--weights=ema.'
    )
  step = steps[-1] if step is None else step
  if step not in steps:
    raise InputError(
      f'no snapshot of step {step} in {folder}; there are steps '
      f'{", ".join(map(str, steps))}.'
    )
  snapshots = [
    (end, path)
    for end in steps
    if end <= step
    for path in sorted((folder / str(end)).iterdir())
    if _is_width(path.name)
  ]
  factors = coefficients(
    [(end, float(p.name)) for end, p in snapshots], step, width
  )
  target = weights_like(config, mesh, 'float32')
  total: Any = None
  with ocp.StandardCheckpointer() as checkpointer:
    for factor, (_, path) in zip(factors, snapshots, strict=True):
      try:
        tree = checkpointer.restore(path, target)
      except Exception as error:  # Orbax raises errors of any class
        raise InputError(
          f'snapshot {path} cannot be read ({reason(error)}); delete its step '
          'to do without it.'
        ) from error
      part = jax.tree.map(lambda x: factor * x, tree)  # noqa: B023
      total = part if total is None else jax.tree.map(jnp.add, total, part)
  return total, step


def _is_width(name: str) -> bool:
  return re.fullmatch(r'0\.\d+', name) is not None
