"""Saves the state of a run, but not after a non-finite step."""

from collections.abc import Callable

from absl import logging

from train.checkpointer import Checkpointer
from train.experiment import Experiment
from train.posthoc_ema import Snapshots
from train.progress import Report
from train.state import TrainState


class Saver:
  """Writes checkpoints and snapshots when they are due and the run is sound.

  A non-finite step leaves the state unchanged. The unchanged state may already
  be bad, since finite parameters can produce a non-finite loss. Therefore, a
  save that is due after a non-finite step waits for the next finite step.
  """

  def __init__(
    self,
    experiment: Experiment,
    checkpointer: Checkpointer,
    snapshots: Snapshots,
    report: Report,
    rank: Callable[[dict[str, float], float], float],
  ) -> None:
    """Creates a saver for which no save is due yet.

    `report` knows whether the latest step was finite. `rank` maps scores and
    mean loss to a sort key; see `Scores.rank`.
    """
    settings = experiment.train
    self._every = settings.steps_of(experiment.checkpoint.every_images)
    self._snapshot_every = settings.steps_of(experiment.ema.snapshot_images)
    self._checkpointer, self._snapshots = checkpointer, snapshots
    self._report, self._rank = report, rank
    self._scores: dict[str, float] = {}
    self._due = self._snapshot_due = False

  def __call__(
    self, state: TrainState, step: int, last: bool, scores: dict[str, float]
  ) -> None:
    """Saves the state after `step` if a save is due and the state is sound.

    If `last` is true, the run stops after this step, which makes a save due.
    `scores` is {} if the step has no scores.

    Raises:
      NonFiniteError: after `train.max_bad_steps` non-finite steps in a row.
      SaveError: if a checkpoint or snapshot could not be written.
    """
    is_due = last or step % self._every == 0
    if is_due:
      self._due, self._scores = True, scores
    if self._snapshot_every and (last or step % self._snapshot_every == 0):
      self._snapshot_due = is_due = True
    if not (self._due or self._snapshot_due):
      return
    self._report.flush()  # logs before saving, since a kill may follow
    if not self._report.sound:
      if is_due:
        logging.warning(
          'Step %d is not saved, since it is not finite: the next finite step '
          'is.',
          step,
        )
      return
    if self._snapshot_due:
      self._snapshots.save(state.power, step)
    if self._due:
      rank = self._rank(self._scores, self._report.mean_loss())
      self._checkpointer.save(state, step, rank, self._report.bad_steps)
    self._due = self._snapshot_due = False
