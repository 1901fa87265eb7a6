"""Records to batches: the order is a function of (seed, step).

The records of step n are n * B, ..., (n + 1) * B - 1 of an endless sequence
of reshuffled epochs; each process reads the rows that its devices hold. So
nothing about the position has to be saved, and neither the processes nor the
devices change the global batches.
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
    source: records by index.
    config: how to read them.
    mesh: where to place them.
    batch_size: B, of the global batch.
    seed: of the order.
    start: the first step.

  Yields:
    'label' (B,) int32, and 'image' (B, H, W, C) uint8 or 'moments'
    (B, H, W, 2C) float, cut over the mesh.
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
    local = workers.read(dataset, options, config.workers)
  else:
    local = dataset.to_iter_dataset(options)
  for batch in local:
    yield {
      name: _global(values, rows, sharding, batch_size)
      for name, values in batch.items()
    }


def rows_here(sharding: NamedSharding, batch_size: int) -> np.ndarray:
  """Rows of the global batch that devices of this process hold, rising."""
  places = sharding.addressable_devices_indices_map((batch_size,)).values()
  index = np.arange(batch_size)
  return np.unique(np.concatenate([index[place] for place in places]))


def _rows(
  records: grain.MapDataset, batch_size: int, rows: np.ndarray, step: int
) -> dict[str, np.ndarray]:
  """These rows of the global batch of a step."""
  read = [records[step * batch_size + row] for row in rows.tolist()]
  return {name: np.stack([r[name] for r in read]) for name in read[0]}


def _global(
  values: np.ndarray, rows: np.ndarray, sharding: NamedSharding, count: int
) -> jax.Array:
  """The rows of this process as its part of the global array."""

  def part(index):
    first, last, _ = index[0].indices(count)
    begin = np.searchsorted(rows, first)
    return values[begin : begin + last - first]

  shape = (count, *values.shape[1:])
  return jax.make_array_from_callback(shape, sharding, part)


def _example(
  flip: bool, record: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
  """What training needs of a record, half of them mirrored with `flip`."""
  mirrored = flip and bool(rng.integers(2))
  label = np.int32(record['label'])
  if 'moments' in record:
    return {'moments': record['moments'][int(mirrored)], 'label': label}
  image = image_of(record)
  return {'image': image[:, ::-1] if mirrored else image, 'label': label}
