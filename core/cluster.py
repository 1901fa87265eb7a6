"""Many processes as one job: `jax.distributed`, started before any device.

Cloud TPU, GKE, Slurm and Open MPI tell JAX all it needs; elsewhere every
process is told where the first one listens, their number, and its own. When a
process dies, the others end with an error after the heartbeat's time. SIGTERM
to any of them is passed on to all (`preempted`), so that a job saves once, at
a step they agree on.
"""

import argparse
import socket
from typing import Annotated

import jax
from jax.experimental import multihost_utils

from core.errors import InputError
from core.ranges import Range, check_value

Positive = Annotated[int, Range(1, 10**6)]


def join(args: argparse.Namespace) -> None:
  """Makes this process one of the job that the flags describe.

  Raises:
    InputError: for flags that do not go together, or no job to be seen.
  """
  given = (args.coordinator, args.num_processes, args.process_id)
  explicit = [value is not None for value in given]
  if not (args.distributed or any(explicit)):
    return
  if any(explicit) and not all(explicit):
    raise InputError(
      '--coordinator, --num_processes and --process_id go together: give all '
      'three, or --distributed alone where the job tells them.'
    )
  check_value('--heartbeat_seconds', args.heartbeat_seconds, Positive)
  if all(explicit):
    check_value('--num_processes', args.num_processes, Positive)
    last = args.num_processes - 1
    check_value('--process_id', args.process_id, Annotated[int, Range(0, last)])
    _check_coordinator(args.coordinator, args.process_id)
  try:
    jax.distributed.initialize(
      *given, heartbeat_timeout_seconds=args.heartbeat_seconds
    )
  except (ValueError, RuntimeError) as error:
    raise InputError(
      f'the job cannot be joined ({" ".join(str(error).split())[:300]}); '
      'outside Cloud TPU, GKE, Slurm and Open MPI give --coordinator, '
      '--num_processes and --process_id.'
    ) from error


def _check_coordinator(coordinator: str, process_id: int) -> None:
  """Raises InputError for no address, or one that is taken here."""
  host, _, port = coordinator.rpartition(':')
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise InputError(
      f'--coordinator is {coordinator!r}, expected HOST:PORT of the first '
      'process.'
    )
  if process_id:
    return
  with socket.socket() as listening:  # else JAX ends the process by a signal
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listening.bind(('', int(port)))
    except OSError as error:
      raise InputError(
        f'--coordinator: port {port} cannot be had here '
        f'({error.strerror or error}); choose another.'
      ) from error


def preempted(step: int) -> bool:
  """Returns whether all processes stop after this step; the same on all."""
  return multihost_utils.reached_preemption_sync_point(step)
