"""Checkpoints, with Orbax: asynchronous, atomic, the newest few kept.

A checkpoint holds three items, so that sampling reads no optimiser:

  params     the raw parameters
  ema        their moving average
  training   counters and the optimiser's state

A checkpoint appears whole or not at all (Orbax renames a finished folder).
Arrays are restored straight to where the present mesh wants them, whatever
the mesh that saved them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from dit import model
from dit.config import DiTConfig
from dit.sharding import tree_shardings
from dit.types import InputError
from train.state import TrainState

WEIGHTS = {'ema': 'ema', 'raw': 'params'}  # and their items


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When to save, in images seen, and how many checkpoints to keep.

  Attributes:
    every_images: between checkpoints.
    keep: how many of the newest stay.
    keep_every_images: between checkpoints that stay for good; 0: none.
  """

  every_images: int
  keep: int
  keep_every_images: int = 0


def folder_of(workdir: epath.PathLike) -> epath.Path:
  """Where a run keeps its checkpoints."""
  return epath.Path(workdir).expanduser().resolve() / 'checkpoints'


class Checkpointer:
  """The checkpoints of one run; use as a context manager."""

  def __init__(
    self,
    workdir: epath.Path,
    config: CheckpointConfig,
    keep_period: int | None = None,
  ) -> None:
    """Opens, or creates, `workdir`/checkpoints.

    Args:
      workdir: of the run.
      config: how many of the newest to keep.
      keep_period: steps that it divides stay for good.
    """
    self._manager = ocp.CheckpointManager(
      folder_of(workdir),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=config.keep,
        keep_period=keep_period,
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
      ),
    )

  def __enter__(self) -> 'Checkpointer':
    """Does nothing more."""
    return self

  def __exit__(self, *error: Any) -> None:
    """Waits for saves under way."""
    self._manager.close()

  @property
  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def save(self, state: TrainState, step: int) -> None:
    """Starts to save; returns once the arrays are copied off the devices."""
    if step == self.latest_step:
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        **{
          name: ocp.args.StandardSave(tree)
          for name, tree in _items(state).items()
        }
      ),
    )

  def wait(self) -> None:
    """Returns when everything is on disk."""
    self._manager.wait_until_finished()

  def restore(self, abstract: TrainState) -> TrainState | None:
    """The newest state, laid out as `abstract` says; None if there is none."""
    step = self.latest_step
    if step is None:
      return None
    args = {
      name: ocp.args.StandardRestore(tree)
      for name, tree in _items(abstract).items()
    }
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as error:  # Orbax raises whatever its parts raise
      raise _damaged(self._manager.directory / str(step), error) from error
    logging.info('Restored step %d.', step)
    return TrainState(
      params=restored['params'], ema=restored['ema'], **restored['training']
    )


def checkpoint_step(workdir: epath.PathLike, step: int | None = None) -> int:
  """`step`, or that of the newest checkpoint; InputError if it is not there."""
  folder = folder_of(workdir)
  steps = ocp.utils.checkpoint_steps(folder) if folder.exists() else []
  if not steps:
    raise InputError(
      f'no checkpoint in {folder}; train first: python main.py train '
      f'--workdir={workdir}.'
    )
  if step is not None and step not in steps:
    raise InputError(
      f'no checkpoint of step {step} in {folder}; there are steps '
      f'{", ".join(map(str, sorted(steps)))} (checkpoint.keep_every_images '
      'keeps earlier ones).'
    )
  return max(steps) if step is None else step


def restore_weights(
  workdir: epath.Path,
  config: DiTConfig,
  mesh: jax.sharding.Mesh,
  weights: str = 'ema',
  step: int | None = None,
) -> tuple[model.Params, int]:
  """Reads only the weights of one of a run's checkpoints.

  Args:
    workdir: of the run.
    config: the network.
    mesh: where to put them.
    weights: 'ema' or 'raw'.
    step: of the checkpoint; None for the newest.

  Returns:
    The weights, and the step at which they were saved.

  Raises:
    InputError: if there is no such checkpoint.
  """
  folder = folder_of(workdir)
  step = checkpoint_step(workdir, step)
  shapes = model.shapes(config)
  target = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape,
      jnp.float32 if weights == 'ema' else leaf.dtype,  # see train.state
      sharding=sharding,
    ),
    shapes,
    tree_shardings(shapes, mesh),
  )
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      params = checkpointer.restore(
        folder / str(step) / WEIGHTS[weights], target
      )
  except Exception as error:  # Orbax raises whatever its parts raise
    raise _damaged(folder / str(step), error) from error
  return params, step


def _damaged(folder: epath.Path, error: Exception) -> InputError:
  """The error for a checkpoint that cannot be read, in one line."""
  reason = ' '.join(str(error).split())[:200]
  return InputError(
    f'checkpoint {folder} cannot be read ({type(error).__name__}: {reason}); '
    'it is damaged or of another version. Move it away to use the one before.'
  )


def _items(state: TrainState) -> dict[str, Any]:
  """The state as the items of a checkpoint."""
  return {
    'params': state.params,
    'ema': state.ema,
    'training': {
      'step': state.step,
      'bad_steps': state.bad_steps,
      'opt_state': state.opt_state,
    },
  }
