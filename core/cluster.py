"""Joins a multi-process job (`jax.distributed`) before JAX uses a device.

JAX detects Cloud TPU, GKE, Slurm and Open MPI. On other clusters, each process
needs the coordinator's address, the number of processes, and its own index.
When a process dies, the other processes fail after the heartbeat timeout. When
a process receives SIGTERM, all processes save at the same step (`preempted`).
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
  """Joins this process to the job that the flags describe.

  Raises:
    InputError: if the flags are inconsistent or no job is found.
  """
  options = (args.coordinator, args.num_processes, args.process_id)
  flags = [value is not None for value in options]
  if not (args.distributed or any(flags)):
    return
  if any(flags) and not all(flags):
    raise InputError(
      '--coordinator, --num_processes and --process_id go together: give all '
      'three, or --distributed alone where JAX detects the job.'
    )
  check_value('--heartbeat_seconds', args.heartbeat_seconds, Positive)
  if all(flags):
    check_value('--num_processes', args.num_processes, Positive)
    last = args.num_processes - 1
    check_value('--process_id', args.process_id, Annotated[int, Range(0, last)])
    _check_coordinator(args.coordinator, args.process_id)
  try:
    jax.distributed.initialize(
      *options, heartbeat_timeout_seconds=args.heartbeat_seconds
    )
  except (ValueError, RuntimeError) as error:
    raise InputError(
      f'the job cannot be joined ({" ".join(str(error).split())[:300]}); '
      'outside Cloud TPU, GKE, Slurm and Open MPI give --coordinator, '
      '--num_processes and --process_id.'
    ) from error


def _check_coordinator(coordinator: str, process_id: int) -> None:
  """Raises InputError if the address is invalid or the port is in use."""
  host, _, port = coordinator.rpartition(':')
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise InputError(
      f'--coordinator is {coordinator!r}, expected HOST:PORT of the first '
      'process.'
    )
  if process_id:
    return
  # The first process opens the port. JAX would abort if the port were in use.
  with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listener.bind(('', int(port)))
    except OSError as error:
      raise InputError(
        f'--coordinator: port {port} is not available here '
        f'({error.strerror or error}); choose another.'
      ) from error


def preempted(step: int) -> bool:
  """Returns whether all processes must stop after this step."""
  return multihost_utils.reached_preemption_sync_point(step)
