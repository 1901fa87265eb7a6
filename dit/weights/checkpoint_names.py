"""Names of a run's checkpoints: WORKDIR/checkpoints/STEP."""

import orbax.checkpoint as ocp
from etils import epath

from core.errors import InputError


def checkpoints_folder(workdir: epath.PathLike) -> epath.Path:
  """Returns the folder of a run's checkpoints."""
  return epath.Path(workdir).expanduser().resolve() / 'checkpoints'


def saved_steps(workdir: epath.PathLike) -> list[int]:
  """Returns the steps of a run's complete checkpoints, in rising order."""
  folder = checkpoints_folder(workdir)
  if not folder.exists():
    return []
  if not folder.is_dir():
    raise InputError(f'{folder} is a file, expected a folder of checkpoints.')
  return sorted(ocp.utils.checkpoint_steps(folder))


def checkpoint_step(workdir: epath.PathLike, step: int | None = None) -> int:
  """Returns `step`, by default the newest; raises InputError if missing."""
  folder, steps = checkpoints_folder(workdir), saved_steps(workdir)
  if not steps:
    raise InputError(
      f'no checkpoint in {folder}; train first, with the train command of this '
      'run, or wait until it has saved one.'
    )
  if step is not None and step not in steps:
    raise InputError(
      f'no checkpoint of step {step!r} in {folder}; there are steps '
      f'{", ".join(map(str, steps))} (checkpoint.keep_every_images '
      'keeps earlier ones).'
    )
  return max(steps) if step is None else step
