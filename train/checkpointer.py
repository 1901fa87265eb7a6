"""Asynchronous, atomic, verified checkpoints with Orbax.

WORKDIR/checkpoints/STEP holds four items, so that `dit.weights.restore` can
load weights for sampling without reading the optimizer state:

  params     raw parameters
  ema        exponential moving average of the parameters
  training   rest of the state: counters, optimizer state, other averages
  digests    one checksum per array, to detect even a single flipped bit

Orbax gives a checkpoint folder its final name when the checkpoint is complete.
A run may resume on another mesh: restoring shards the arrays for that mesh.
"""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from core.errors import InputError, RunError, reason
from core.files import read_json
from core.processes import everywhere
from core.ranges import MOST_IMAGES, Choice, Images, Range, check_fields
from dit.weights.checkpoint_names import checkpoints_folder, saved_steps
from dit.weights.digests import check_digests, digests_of
from dit.weights.restore import restore_newest, unreadable
from evaluate.metrics import METRICS
from train.state import TrainState


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Checkpoint settings; configs/base.py explains each field."""

  every_images: Annotated[int, Range(1, MOST_IMAGES)]
  keep: Annotated[int, Range(1, 10**6)]
  keep_every_images: Images = 0
  keep_best: Annotated[int, Range(0, 10**6)] = 0
  best_by: Annotated[str, Choice(('loss', *METRICS))] = 'loss'
  fallback: bool = False

  def __post_init__(self) -> None:
    check_fields('checkpoint', self)


class SaveError(RunError):
  """Error while writing a checkpoint; earlier checkpoints stay intact."""


@contextlib.contextmanager
def save_errors(what: str, kept: str = '') -> Iterator[None]:
  """Converts any error that the `with` block raises to a SaveError."""
  try:
    yield
  except Exception as error:  # Orbax raises errors of any class
    raise SaveError(
      f'{what} could not be written ({reason(error)}){kept}. Make room, and '
      'give the same command again.'
    ) from error


class Checkpointer:
  """A context manager that saves and restores the checkpoints of one run."""

  def __init__(
    self,
    workdir: epath.Path,
    config: CheckpointConfig,
    keep_period: int | None = None,
  ) -> None:
    """Opens or creates `workdir`/checkpoints.

    Checkpoints at intervals of `keep_period` steps are never deleted.
    """
    self._config, self._keep_period = config, keep_period
    self._folder = checkpoints_folder(workdir)
    self._saving: int | None = None
    self._aside = self._folder.parent / 'damaged'
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    """Opens Orbax's manager, which removes incomplete checkpoints."""
    rank = functools.partial(_rank, by=self._config.best_by)
    rules = [policies.LatestN(n=self._config.keep)]
    if self._keep_period:
      rules.append(policies.EveryNSteps(interval_steps=self._keep_period))
    if self._config.keep_best:
      rules.append(
        policies.BestN(
          n=self._config.keep_best,
          get_metric_fn=rank,
          reverse=True,  # sorts the best last; the policy keeps the last n
          keep_checkpoints_without_metrics=False,
        )
      )
    self._folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
      for step in saved_steps(self._folder.parent):
        _mend_metrics(self._folder / str(step) / 'metrics' / 'metrics')
    everywhere(1)  # waits for process 0
    return ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(rules),
        best_fn=rank,  # Orbax stores metrics only if best_fn is set
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
      ),
    )

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *error: Any) -> None:
    with self._reported():
      self._manager.close()

  @property
  def latest_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint, if there is one."""
    return self._manager.latest_step()

  def save(
    self,
    state: TrainState,
    step: int,
    rank: float = math.inf,
    bad_steps: int = 0,
  ) -> None:
    """Starts to save a state; returns when the arrays have left the devices.

    `rank` is a sort key; the best checkpoint has the lowest rank. `bad_steps`
    is the number of non-finite steps so far. Raises SaveError if this save or
    the previous one failed.
    """
    self.wait()
    if step == self.latest_step:
      return
    items = _items(state)
    digests = {name: digests_of(tree) for name, tree in items.items()}
    args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    args['digests'] = ocp.args.JsonSave(digests)
    self._saving = step
    with self._reported():
      self._manager.save(
        step,
        args=ocp.args.Composite(**args),
        metrics={
          'rank': rank,
          'by': self._config.best_by,
          'bad_steps_total': bad_steps,
        },
      )

  def bad_steps(self, step: int) -> int:
    """Returns the stored count of non-finite steps; 0 if none is stored."""
    return int((self._manager.metrics(step) or {}).get('bad_steps_total', 0))

  def wait(self) -> None:
    """Waits until all checkpoints are on disk.

    Raises SaveError if a save failed or the checkpoints were removed.
    """
    with self._reported():
      self._manager.wait_until_finished()
    newest = '' if self.latest_step is None else str(self.latest_step)
    if not (self._folder / newest).exists():
      raise SaveError(
        f'{self._folder / newest} was removed while the run wrote to it, so '
        'the run is incomplete; give a workdir that stays, and train again.'
      )

  def _reported(self) -> contextlib.AbstractContextManager[None]:
    name = f'the checkpoint of step {self._saving}'
    return save_errors(name, '; the ones before it are kept')

  def restore(self, abstract: TrainState) -> TrainState | None:
    """Returns the newest checkpoint, sharded like `abstract`; None if absent.

    Raises:
      InputError: if the newest checkpoint is damaged. With `fallback`, only if
        every checkpoint is damaged.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state, error = self._restore(step, abstract), None
      except Exception as problem:  # Orbax raises errors of any class
        error = problem
      if everywhere(error is None).all():
        logging.info('Restored step %d.', step)
        return state
      self._damaged(step, error or RuntimeError('on another process'))
      self._manager.reload()
    if self._aside.exists() and any(self._aside.iterdir()):
      raise InputError(
        f'no checkpoint of the run can be read; see {self._aside}. To start '
        'again, choose a new workdir.'
      )
    return None

  def _restore(self, step: int, abstract: TrainState) -> TrainState:
    items = _items(abstract)
    args = {
      name: ocp.args.StandardRestore(tree) for name, tree in items.items()
    }
    args['digests'] = ocp.args.JsonRestore()
    restored = self._manager.restore(step, args=ocp.args.Composite(**args))
    for name in items:
      check_digests(name, restored[name], restored['digests'][name])
    return dataclasses.replace(
      abstract,
      params=restored['params'],
      ema=restored['ema'],
      **restored['training'],
    )

  def _damaged(self, step: int, error: Exception) -> None:
    """Moves a damaged checkpoint away if `fallback`; else raises InputError."""
    folder = self._folder / str(step)
    failure = unreadable(folder, error)
    if not self._config.fallback:
      raise failure from error
    logging.warning('%s It is moved to %s.', failure, self._aside)
    if jax.process_index() == 0:
      self._aside.mkdir(exist_ok=True)
      target = self._aside / folder.name
      while target.exists():
        target = target.with_name(target.name + '_')
      folder.rename(target)
    everywhere(1)  # waits until process 0 has moved the folder


def _rank(metrics: dict[str, Any], by: str = 'loss') -> float:
  """Returns the stored rank; inf if it belongs to a metric other than `by`."""
  # Earlier versions of this project stored only the loss.
  rank = metrics['loss'] if 'loss' in metrics else metrics['rank']
  is_same = metrics.get('by', 'loss') == by
  return rank if is_same and math.isfinite(rank) else math.inf


def _mend_metrics(path: epath.Path) -> None:
  """Replaces an unreadable rank with inf, the rank of the worst checkpoint."""
  try:
    metrics = read_json(path)
    _rank(metrics)
    int(metrics.get('bad_steps_total', 0))
  except (OverflowError, ValueError, KeyError, TypeError):
    logging.warning('%s is damaged: its checkpoint counts as the worst.', path)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({'rank': math.inf}))


def restore_training(
  workdir: epath.PathLike, abstract: TrainState
) -> dict[str, Any]:
  """Returns the newest saved item `training`, sharded like `abstract`."""
  return restore_newest(workdir, 'training', _items(abstract)['training'])[0]


def _items(state: TrainState) -> dict[str, Any]:
  return {
    'params': state.params,
    'ema': state.ema,
    'training': {
      field.name: getattr(state, field.name)
      for field in dataclasses.fields(state)
      if field.name not in ('params', 'ema')
    },
  }
