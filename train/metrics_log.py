"""Logs metrics to JSON lines, TensorBoard, W&B and the terminal."""

import contextlib
import importlib.util
import json
import logging as stdlib_logging
import math
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from etils import epath

from core.errors import InputError, WriteError, reason
from core.files import parse_json, read_json, write_bytes, write_json
from core.progress import on_terminal
from sample.pictures import write_png
from train.tensorboard_log import TensorBoardLog

# Folders of the project whose code may show log messages.
_FOLDERS = (
  'commands', 'core', 'distill', 'dit', 'evaluate', 'guidance',
  'input_pipeline', 'sample', 'train', 'experiments', 'benchmarks',
)  # fmt: skip
_SHOWN = ('loss', 'grad_norm', 'lr', 'images_per_second')


def set_up_logging() -> None:
  """Shows this project's messages on process 0, and warnings of libraries."""
  flags.FLAGS.mark_as_parsed()  # absl buffers messages until flags are parsed
  handler = logging.get_absl_handler()
  handler.addFilter(_is_logged)
  handler.setFormatter(
    stdlib_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')
  )
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  logging.set_stderrthreshold(logging.INFO)


def _is_logged(record: stdlib_logging.LogRecord) -> bool:
  """Returns whether a message is shown, by the rules of `set_up_logging`."""
  path, root = pathlib.Path(record.pathname), pathlib.Path(__file__).parents[1]
  if path.is_relative_to(root) and path.relative_to(root).parts[0] in _FOLDERS:
    return jax.process_index() == 0
  return record.levelno >= stdlib_logging.WARNING


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
  """Returns the undamaged lines of metrics.jsonl.

  Raises InputError if the file cannot be read.
  """
  path = epath.Path(workdir) / 'metrics.jsonl'
  try:
    text = path.read_bytes() if path.exists() else b''
  except OSError as error:
    raise InputError(f'{path} cannot be read ({error.strerror}).') from error
  rows = []
  for line in text.decode(errors='replace').splitlines():
    row = _row(line)
    if row is None:
      logging.warning('%s: left out a damaged line: %.40s', path, line)
    else:
      rows.append(row)
  return rows


def _row(line: str) -> dict[str, float] | None:
  """Parses a line of metrics.jsonl; returns None if the line is damaged."""
  try:
    row = parse_json(line)
  except ValueError:
    return None
  if not isinstance(row, dict) or 'step' not in row:
    return None
  is_finite = all(
    type(value) in (int, float) and math.isfinite(value)
    for value in row.values()
  )
  return row if is_finite and isinstance(row['step'], int) else None


@contextlib.contextmanager
def _best_effort() -> Iterator[None]:
  """Logs write errors of the `with` block, so that they do not end the run."""
  try:
    yield
  except (OSError, WriteError) as error:
    logging.warning('Metrics could not be written: %s.', error)


class MetricsLog:
  """A context manager that writes the metrics of process 0.

  A run that resumes at step n removes the lines of later steps, since the run
  repeats the later steps.
  """

  def __init__(
    self,
    workdir: epath.Path,
    step: int,
    config: Mapping[str, Any] | None = None,
    wandb: str = '',
  ) -> None:
    """Opens the logs of `workdir` after `step` steps of the run.

    `config` is shown next to the curves. `wandb` is a project of Weights &
    Biases, or ENTITY/PROJECT; '' for none.
    """
    self._writes = jax.process_index() == 0
    self._workdir, self._wandb = workdir, None
    if not self._writes:
      return
    if wandb:
      self._wandb = _start_wandb(wandb, workdir, config)
    rows = [row for row in read_metrics(workdir) if row['step'] <= step]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    write_bytes(workdir / 'metrics.jsonl', text.encode())
    self._lines = (workdir / 'metrics.jsonl').open('a')
    self._board = TensorBoardLog(workdir / 'tensorboard', step)
    if config is not None:
      text = json.dumps(config, indent=2).replace('\n', '\n    ')
      self._board.text(step, 'config', f'    {text}')  # Markdown code block

  def __enter__(self) -> 'MetricsLog':
    return self

  def __exit__(self, *error: Any) -> None:
    if self._writes:
      with _best_effort():
        self._lines.close()
      with _best_effort():
        self._board.close()
      if self._wandb:
        self._wandb.finish(exit_code=int(error[0] is not None))

  def scalars(
    self, step: int, values: dict[str, float], note: str = ''
  ) -> None:
    """Logs the metrics of a step; the terminal also shows `note`."""
    if not self._writes:
      return
    # JSON cannot represent non-finite values.
    values = {k: v for k, v in values.items() if math.isfinite(v)}
    with _best_effort():
      self._lines.write(json.dumps({'step': step, **values}) + '\n')
      self._lines.flush()
      for name, value in values.items():
        self._board.scalar(step, name, value)
      if self._wandb:
        self._wandb.log(values, step=step)
    if not on_terminal():
      scores = [name for name in values if name.startswith('eval/')]
      items = [
        f'{name} {values[name]:.4g}'
        for name in (*_SHOWN, *scores)
        if name in values
      ]
      logging.info('step %d: %s%s', step, ', '.join(items), note)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Logs an (H, W, C) uint8 image to TensorBoard and W&B, and as a PNG."""
    if not self._writes:
      return
    with _best_effort():
      self._board.image(step, name, image)
      if self._wandb:
        import wandb

        self._wandb.log({name: wandb.Image(image.squeeze())}, step=step)
      folder = self._workdir / f'{name}s'
      folder.mkdir(exist_ok=True)
      write_png(folder / f'{step:08}.png', image)


def check_wandb(project: str) -> None:
  """Raises InputError if W&B is requested but not installed."""
  if project and importlib.util.find_spec('wandb') is None:
    raise InputError(
      f'log.wandb is {project!r}, but wandb is not installed: '
      'pip install -r requirements-wandb.txt, or leave log.wandb empty.'
    )


def _start_wandb(
  project: str, workdir: epath.Path, config: Mapping[str, Any] | None
) -> Any:
  """Starts or resumes the W&B run of a workdir."""
  import wandb

  entity, _, name = project.rpartition('/')
  identity = workdir / 'wandb.json'
  if not identity.exists():  # a new workdir starts a new W&B run
    write_json(identity, {'id': uuid.uuid4().hex[:16]})
  try:
    return wandb.init(
      project=name,
      entity=entity or None,
      name=workdir.name,
      id=read_json(identity)['id'],
      resume='allow',
      config=dict(config or {}),
      dir=None if '://' in str(workdir) else str(workdir),  # None for buckets
    )
  except Exception as error:  # the package raises errors of any class
    raise InputError(
      f'W&B cannot be reached ({reason(error)}); wandb login, or set '
      'WANDB_MODE=offline, or leave log.wandb empty.'
    ) from error
