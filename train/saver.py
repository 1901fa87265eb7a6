"""Saves of a run, delayed while its steps are not finite."""

from collections.abc import Callable

from absl import logging

from train.checkpointer import Checkpointer
from train.experiment import Experiment
from train.posthoc_ema import Snapshots
from train.progress import Report
from train.state import TrainState


class Saver:
  """Writes checkpoints and snapshots when they are due and the run is sound.

  A non-finite step changes nothing, but the step before it may have left finite
  parameters that give no finite loss. Saves within a streak of non-finite steps
  therefore wait for the next finite step, so a ruined state never replaces a
  good one.
  """

  def __init__(
    self,
    experiment: Experiment,
    checkpointer: Checkpointer,
    snapshots: Snapshots,
    report: Report,
    rank: Callable[[dict[str, float], float], float],
  ) -> None:
    """Starts with nothing due.

    Args:
      experiment: Settings of the run.
      checkpointer: Writer of checkpoints.
      snapshots: Writer of power-function averages.
      report: Report that knows whether the latest step was finite.
      rank: Function of scores and mean loss to a sort key; see `Scores.rank`.
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

    Args:
      state: State after the step.
      step: Number of steps taken.
      last: Whether the run stops here, which makes a save due.
      scores: Scores of this step; {} for none.

    Raises:
      NonFiniteError: after `train.max_bad_steps` bad steps in a row.
      SaveError: if a checkpoint or snapshot could not be written.
    """
    due = last or step % self._every == 0
    if due:
      self._due, self._scores = True, scores
    if self._snapshot_every and (last or step % self._snapshot_every == 0):
      self._snapshot_due = due = True
    if not (self._due or self._snapshot_due):
      return
    self._report.flush()  # logs first: a kill after the save loses no line
    if not self._report.sound:
      if due:
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
