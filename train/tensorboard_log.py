"""TensorBoard's event file, written in the caller's thread.

The writer of tensorboardX has a thread of its own and a queue for it. If the
thread fails, as on a full disk, the queue fills and training waits forever.
"""

import contextlib
import socket
import time
from typing import Any

import numpy as np
from etils import epath

_FLUSH_SECONDS = 30.0  # on gs://, every flush uploads the whole file


class TensorBoardLog:
  """Event files in a folder, local or gs://.

  Methods raise OSError if the file cannot be written. The next entry then
  starts a new file, since the last record of the old one may be cut.
  """

  def __init__(self, folder: epath.Path, step: int) -> None:
    """Starts a file; TensorBoard hides earlier entries after `step`."""
    # Imported here, since they load torch if torch is installed.
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
    """Adds an image (H, W, C) uint8."""
    self._write(
      step, summary=self._summary.image(name, image, dataformats='HWC')
    )

  def text(self, step: int, name: str, text: str) -> None:
    """Adds a text in Markdown."""
    self._write(step, summary=self._summary.text(name, text))

  def close(self) -> None:
    """Writes what is left and closes the file."""
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
