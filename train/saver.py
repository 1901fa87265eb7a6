"""The saves of a run, which wait while its steps are not finite."""

from collections.abc import Callable

from absl import logging

from train.checkpoint import Checkpointer
from train.experiment import Experiment
from train.posthoc_ema import Snapshots
from train.progress import Report
from train.state import TrainState


class Saver:
  """Writes checkpoints and snapshots when they are due and the run is sound.

  A step that is not finite changes nothing, but the one before it may have
  ruined the parameters: those can be finite and yet give no finite loss. So
  nothing is written within a streak of such steps, and a ruined state never
  replaces a good one. What was due is written after the next finite step.
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
      experiment: Every setting.
      checkpointer: Writer of checkpoints.
      snapshots: Writer of power-function averages.
      report: Judge of whether the latest step was finite.
      rank: Function of a step's scores and the mean loss to the rank of a
        checkpoint; see `Scores.rank`.
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
    """Saves the state after `step`, if a save is due and it is sound.

    Args:
      state: State after the step.
      step: Number of steps taken.
      last: Whether the run stops here, which makes a save due.
      scores: Scores of this step; {} where nothing was measured.

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
    self._report.flush()  # a line that is logged after the save could be lost
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
