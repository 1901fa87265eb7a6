"""Yields batches of records; the seed and the step determine each batch.

Step n takes the records n * B to (n + 1) * B - 1 of an endless sequence of
reshuffled epochs, so a checkpoint needs no position in the data. Each process
reads the rows of its own devices. Global batches do not depend on the number of
processes or devices.
"""

import functools
import sys
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dit.sharding import batch_sharding
from input_pipeline import workers
from input_pipeline.sources import DataConfig, image_of


def batches(
  source: Any,
  config: DataConfig,
  mesh: Mesh,
  *,
  batch_size: int,
  seed: int,
  start: int,
) -> Iterator[dict[str, jax.Array]]:
  """Yields the global batches of steps `start`, `start` + 1, ...

  Args:
    source: Records, read by index.
    config: Settings for reading records.
    mesh: Mesh of the devices that receive the batches.
    batch_size: Size B of the global batch.
    seed: Random seed for the order and the mirroring of records.
    start: First step.

  Yields:
    Batch sharded over the mesh: 'label' (B,) int32, and either 'image'
    (B, H, W, C) uint8 or 'moments' (B, H, W, 2C) float.
  """
  sharding = batch_sharding(mesh)
  rows = rows_here(sharding, batch_size)
  records = (
    grain.MapDataset.source(source)
    .seed(seed)
    .shuffle()
    .repeat()
    .random_map(functools.partial(_example, config.flip))
  )
  dataset = grain.MapDataset.range(start, sys.maxsize // batch_size).map(
    functools.partial(_rows, records, batch_size, rows)
  )
  options = grain.ReadOptions(
    num_threads=config.threads, prefetch_buffer_size=config.prefetch
  )
  if config.workers:
    iterator = workers.read(dataset, options, config.workers)
  else:
    iterator = dataset.to_iter_dataset(options)
  for batch in iterator:
    yield {
      name: _global(values, rows, sharding, batch_size)
      for name, values in batch.items()
    }


def rows_here(sharding: NamedSharding, batch_size: int) -> np.ndarray:
  """Returns the sorted rows of the global batch that this process reads."""
  slices = sharding.addressable_devices_indices_map((batch_size,)).values()
  index = np.arange(batch_size)
  return np.unique(np.concatenate([index[part] for part in slices]))


def _rows(
  records: grain.MapDataset, batch_size: int, rows: np.ndarray, step: int
) -> dict[str, np.ndarray]:
  """Reads the given rows of the global batch of a step."""
  entries = [records[step * batch_size + row] for row in rows.tolist()]
  return {name: np.stack([r[name] for r in entries]) for name in entries[0]}


def _global(
  values: np.ndarray, rows: np.ndarray, sharding: NamedSharding, count: int
) -> jax.Array:
  """Returns the global array; this process provides `values` for `rows`."""

  def part(index):
    first, last, _ = index[0].indices(count)
    start = np.searchsorted(rows, first)
    return values[start : start + last - first]

  shape = (count, *values.shape[1:])
  return jax.make_array_from_callback(shape, sharding, part)


def _example(
  flip: bool, record: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
  """Returns the training example of a record, mirrored at random if `flip`."""
  is_mirrored = flip and bool(rng.integers(2))
  label = np.int32(record['label'])
  if 'moments' in record:
    return {'moments': record['moments'][int(is_mirrored)], 'label': label}
  image = image_of(record)
  return {'image': image[:, ::-1] if is_mirrored else image, 'label': label}
