"""Measures how fast records reach the devices, in records per second.

  python -m benchmarks.input_pipeline

Writes random records in the shape of SD-VAE latents of 256 x 256 images. A
record has the moments (mean and std, 32 x 32 x 8, float16) of an image and of
its mirror image. The devices then receive shuffled batches, in which half of
the examples are mirrored. The files are in the page cache, as after the first
epoch of a dataset that fits in memory. A slow disk gives lower rates.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks import timing
from core.files import write_json
from dit.latents import Normalization
from dit.sharding import MeshConfig, make_mesh
from input_pipeline import records
from input_pipeline.batches import batches
from input_pipeline.shards import ShardWriter, finished
from input_pipeline.sources import DataConfig, open_source

LAYOUT = records.Layout('moments', (32, 32, 8), 'float16', flip=True)


def write(config: DataConfig, count: int) -> None:
  folder = config.prepared('train')
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  path = folder / '00000-of-00001.array_record'
  with ShardWriter(path, LAYOUT, 1000) as shard:
    for start in range(0, count, 64):
      size = min(64, count - start)
      arrays = rng.standard_normal((size, *LAYOUT.arrays_shape), np.float32)
      shard.write(rng.integers(1000, size=size), np.float16(arrays))
  metadata = records.Metadata(
    LAYOUT,
    {'autoencoder': {'name': config.autoencoder}},
    tuple(map(str, range(1000))),
    Normalization(),
    (finished(path),),
  )
  write_json(folder / records.PROTOCOL, metadata.protocol)
  write_json(folder / records.METADATA, metadata.to_json())


if __name__ == '__main__':
  parser = timing.parser(__doc__, 'input_pipeline')
  parser.add_argument('--records', type=int, default=8192)
  parser.add_argument('--batch_size', type=int, default=256)
  parser.add_argument('--threads', type=int, nargs='+', default=[1, 4])
  parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--batches', type=int, default=60)
  args = parser.parse_args()
  mesh, rows = make_mesh(MeshConfig()), []
  with tempfile.TemporaryDirectory() as folder:
    config = DataConfig(
      'random', folder, 'train', '', 1, 4, autoencoder='sd_vae', flip=True
    )
    write(config, args.records)
    for workers, threads in itertools.product(args.workers, args.threads):
      config = dataclasses.replace(config, workers=workers, threads=threads)
      stream = batches(
        open_source(config, 'train'),
        config,
        mesh,
        batch_size=args.batch_size,
        seed=0,
        start=0,
      )
      rates = []
      for _ in range(args.rounds):
        next(stream)
        start = time.perf_counter()
        for _ in range(args.batches):
          jax.block_until_ready(next(stream))
        seconds = time.perf_counter() - start
        rates.append(args.batches * args.batch_size / seconds)
      stream.close()
      rate = round(statistics.median(rates))
      rows.append({'workers': workers, 'threads': threads, 'records/s': rate})
  timing.publish(args.json, rows)
