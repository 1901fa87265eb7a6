"""A reader of weights in checkpoints that `train.checkpointer` writes."""

import time
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from core.errors import InputError, reason
from dit import backbone
from dit.base import NetworkConfig, Params
from dit.sharding import placed
from dit.weights.checkpoint_names import (
  checkpoint_step,
  checkpoints_folder,
  saved_steps,
)
from dit.weights.digests import check_digests
from dit.weights.finite import check_finite

WEIGHTS = {'ema': 'ema', 'raw': 'params'}  # set name: checkpoint item
# Number of attempts, since training can remove a checkpoint during a read.
_LOOKS = 10
_PAUSE_SECONDS = 0.05
# Advice for a checkpoint whose weights are not finite.
DIVERGED = (
  'training diverged: take an earlier --step, or convert it with '
  '--allow_nonfinite to study it'
)


def restore_weights(
  workdir: epath.Path,
  config: NetworkConfig,
  mesh: Mesh,
  weights: str = 'ema',
  step: int | None = None,
  *,
  allow_nonfinite: bool = False,
) -> tuple[Params, int]:
  """Reads a run's weights, 'ema' or 'raw'; returns the weights and the step.

  Without `step`, the function reads the newest checkpoint. `allow_nonfinite`
  accepts values that are not finite.

  Raises:
    InputError: if the checkpoint is missing or has values that are not finite.
  """
  # EMA weights are always float32; see train.state.
  target = weights_like(config, mesh, 'float32' if weights == 'ema' else None)
  params, step = restore_newest(workdir, WEIGHTS[weights], target, step)
  check_finite(
    f'{weights} weights of {checkpoints_folder(workdir) / str(step)}',
    params,
    advice=DIVERGED,
    allow=allow_nonfinite,
  )
  return params, step


def weights_like(
  config: NetworkConfig, mesh: Mesh, dtype: str | None = None
) -> Params:
  """Returns shapes and shardings of weights; `dtype` replaces all types."""
  shapes = backbone.shapes(config)
  return placed(shapes, backbone.shardings(config, shapes, mesh), dtype)


def restore_newest(
  workdir: epath.PathLike, item: str, target: Any, step: int | None = None
) -> tuple[Any, int]:
  """Reads a checkpoint's item, such as 'ema'; returns the item and the step.

  `target` has the shapes and shardings of the arrays. Without `step`, the
  function reads the newest checkpoint. If training removes this checkpoint
  during the read, the function tries again with the newest checkpoint.

  Raises:
    InputError: if the checkpoint is missing or damaged, or was removed.
  """
  attempts = _LOOKS
  while True:
    saved_step = checkpoint_step(workdir, step)
    try:
      return restore_item(workdir, item, target, saved_step), saved_step
    except InputError as error:
      attempts -= 1
      if not attempts or _remains(workdir, saved_step, newest=step is None):
        raise
      if step is not None:
        raise InputError(
          f'checkpoint {checkpoints_folder(workdir) / str(saved_step)} was '
          'removed while it was read, since the run is still training; leave '
          '--step out, or raise checkpoint.keep or '
          'checkpoint.keep_every_images of the run.'
        ) from error


def _remains(workdir: epath.PathLike, step: int, *, newest: bool) -> bool:
  """Checks for 0.5 s that `step` exists and, if `newest`, is the newest."""
  for _ in range(_LOOKS):
    steps = saved_steps(workdir)
    if step not in steps or (newest and step != max(steps)):
      return False
    time.sleep(_PAUSE_SECONDS)
  return True


def restore_item(
  workdir: epath.PathLike, item: str, target: Any, step: int
) -> Any:
  """Reads and checks an item of a checkpoint; raises InputError if damaged."""
  folder = checkpoints_folder(workdir) / str(step)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      tree = checkpointer.restore(folder / item, target)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
      digests = checkpointer.restore(folder / 'digests')
    check_digests(item, tree, digests[item])
  except Exception as error:  # Orbax raises many types of errors
    raise unreadable(folder, error) from error
  return tree


def unreadable(folder: epath.Path, error: Exception) -> InputError:
  """Returns the one-line error for an unreadable checkpoint."""
  return InputError(
    f'checkpoint {folder} cannot be read ({reason(error)}); it is damaged or '
    'from another version. To resume from the previous one, set '
    'checkpoint.fallback=true; to sample, choose another --step.'
  )
