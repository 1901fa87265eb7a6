"""Records to batches: the order is a function of (seed, step).

The records of step n are n * B, ..., (n + 1) * B - 1 of an endless sequence
of reshuffled epochs; process p of P takes the p-th part of them. So nothing
about the position has to be saved, and neither the processes nor the devices
change the global batches.
"""

import functools
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from dit.sharding import batch_sharding
from train.data import workers
from train.data.source import DataConfig, image_of


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
  parts, part = jax.process_count(), jax.process_index()
  dataset = (
    grain.MapDataset.source(source)
    .seed(seed)
    .shuffle()
    .repeat()
    .random_map(functools.partial(_example, config.flip))
    .batch(batch_size // parts)
  )
  local = dataset[start * parts + part :: parts]
  options = grain.ReadOptions(
    num_threads=config.threads, prefetch_buffer_size=config.prefetch
  )
  if config.workers:
    local = workers.read(local, options, config.workers)
  else:
    local = local.to_iter_dataset(options)
  sharding = batch_sharding(mesh)
  for batch in local:
    yield {
      name: jax.make_array_from_process_local_data(sharding, values)
      for name, values in batch.items()
    }


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
