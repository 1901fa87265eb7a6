"""Writes TensorBoard event files in the caller's thread.

The writer of tensorboardX would use a queue and a separate thread. If a full
disk ended that thread, the queue would fill and training would wait forever.
"""

import contextlib
import socket
import time
from typing import Any

import numpy as np
from etils import epath

# The interval is long, since every flush on gs:// uploads the whole file.
_FLUSH_SECONDS = 30.0


class TensorBoardLog:
  """Writes event files to a local or gs:// folder.

  Methods raise OSError if the file cannot be written. After an error, the next
  entry starts a new file, since the old file may end with a partial record.
  """

  def __init__(self, folder: epath.Path, step: int) -> None:
    """Starts a file, so that TensorBoard hides older entries after `step`."""
    # The import is late, since tensorboardX loads torch if torch is installed.
    from tensorboardX import record_writer, summary
    from tensorboardX.proto import event_pb2

    self._records, self._summary = record_writer, summary
    self._protos = event_pb2
    self._folder, self._flushed = folder, 0.0
    self._file: Any = None
    folder.mkdir(parents=True, exist_ok=True)
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(step + 1, session_log=start)

  def scalar(self, step: int, name: str, value: float) -> None:
    """Adds a point to a curve."""
    self._write(step, summary=self._summary.scalar(name, value))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Adds an (H, W, C) uint8 image."""
    self._write(
      step, summary=self._summary.image(name, image, dataformats='HWC')
    )

  def text(self, step: int, name: str, text: str) -> None:
    """Adds a Markdown text."""
    self._write(step, summary=self._summary.text(name, text))

  def close(self) -> None:
    """Flushes and closes the file."""
    if self._file is not None:
      self._file.close()

  def _write(self, step: int, **content: Any) -> None:
    now = time.time()
    try:
      if self._file is None:
        name = f'events.out.tfevents.{time.time_ns()}.{socket.gethostname()}'
        self._file = self._records.RecordWriter(str(self._folder / name))
        self._add(wall_time=now, file_version='brain.Event:2')
      self._add(step=step, wall_time=now, **content)
      if now - self._flushed > _FLUSH_SECONDS:
        self._flushed = now
        self._file.flush()
    except OSError:
      with contextlib.suppress(OSError):
        self.close()
      self._file = None
      raise

  def _add(self, **fields: Any) -> None:
    self._file.write(self._protos.Event(**fields).SerializeToString())
