"""The weights of a run's checkpoints; `train.checkpoint` writes them.

In WORKDIR/checkpoints/STEP:

  params     the raw parameters
  ema        their moving average
  training   what else training needs
  digests    a checksum of every array
"""

from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from dit import model
from dit.config import DiTConfig
from dit.digests import check_digests
from dit.errors import InputError
from dit.sharding import placed, tree_shardings

WEIGHTS = {'ema': 'ema', 'raw': 'params'}  # and their items


def folder_of(workdir: epath.PathLike) -> epath.Path:
  """Where a run keeps its checkpoints."""
  return epath.Path(workdir).expanduser().resolve() / 'checkpoints'


def steps_of(workdir: epath.PathLike) -> list[int]:
  """Steps of a run's complete checkpoints, rising."""
  folder = folder_of(workdir)
  if not folder.exists():
    return []
  if not folder.is_dir():
    raise InputError(f'{folder} is a file, expected a folder of checkpoints.')
  return sorted(ocp.utils.checkpoint_steps(folder))


def checkpoint_step(workdir: epath.PathLike, step: int | None = None) -> int:
  """`step`, or that of the newest checkpoint; InputError if it is not there."""
  folder, steps = folder_of(workdir), steps_of(workdir)
  if not steps:
    raise InputError(
      f'no checkpoint in {folder}; train first: python main.py train '
      f'--workdir={workdir}.'
    )
  if step is not None and step not in steps:
    raise InputError(
      f'no checkpoint of step {step!r} in {folder}; there are steps '
      f'{", ".join(map(str, steps))} (checkpoint.keep_every_images '
      'keeps earlier ones).'
    )
  return max(steps) if step is None else step


def restore_weights(
  workdir: epath.Path,
  config: DiTConfig,
  mesh: Mesh,
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
  step = checkpoint_step(workdir, step)
  # Averages are float32 whatever the parameters are; see train.state.
  target = weights_like(config, mesh, 'float32' if weights == 'ema' else None)
  return restore_item(workdir, WEIGHTS[weights], target, step), step


def weights_like(
  config: DiTConfig, mesh: Mesh, dtype: str | None = None
) -> model.Params:
  """Shapes and shardings of the weights; of averages with dtype float32."""
  shapes = model.shapes(config)
  return placed(shapes, tree_shardings(shapes, mesh), dtype)


def restore_item(
  workdir: epath.PathLike, item: str, target: Any, step: int
) -> Any:
  """One item of a checkpoint, checked; InputError where it is damaged."""
  folder = folder_of(workdir) / str(step)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      tree = checkpointer.restore(folder / item, target)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
      digests = checkpointer.restore(folder / 'digests')
    check_digests(item, tree, digests[item])
  except Exception as error:  # Orbax raises whatever its parts raise
    raise unreadable(folder, error) from error
  return tree


def unreadable(folder: epath.Path, error: Exception) -> InputError:
  """The error for a checkpoint that cannot be read, in one line."""
  reason = ' '.join(str(error).split())[:200]
  return InputError(
    f'checkpoint {folder} cannot be read ({type(error).__name__}: {reason}); '
    'it is damaged or of another version. checkpoint.fallback=true trains on '
    'from the one before; sampling takes another --step.'
  )
