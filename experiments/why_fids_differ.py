"""Shows how image processing changes a Frechet distance.

  python -m experiments.why_fids_differ --config=configs/cifar10.py \
    --data_dir=data --features=features/cifar10

Compares held-out images with training images in features of a classifier
(main.py train-features), after one change to the held-out images at a time.
"""

import argparse
import io

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from core import markdown
from dit.sharding import MeshConfig, make_mesh
from evaluate.extractor_registry import open_extractor
from evaluate.frechet import Moments, frechet_distance
from evaluate.kid import kernel_distance
from evaluate.real_images import RealData
from input_pipeline.sources import load_all, open_source
from train.config_file import load_config, override
from train.experiment import build

COUNTS = (250, 500, 1000, 2500, 5000, 10_000)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
  """Encodes an image as JPEG, and decodes the JPEG."""
  data = io.BytesIO()
  Image.fromarray(image).save(data, 'jpeg', quality=quality)
  return np.asarray(Image.open(data))


def resampled(image: np.ndarray, method: Resampling) -> np.ndarray:
  """Enlarges an image by a factor of two, then reduces it to the old size."""
  side = image.shape[0]
  large = Image.fromarray(image).resize((2 * side, 2 * side), method)
  return np.asarray(large.resize((side, side), method))


def changes(images: np.ndarray) -> dict[str, np.ndarray]:
  """Returns one copy of the images for each change, by description."""
  if images.shape[-1] != 3:
    return {'as they are': images}
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, images.shape)
  methods = {
    'JPEG of quality 95': (jpeg, 95),
    'JPEG of quality 75': (jpeg, 75),
    'enlarged and reduced, bicubic': (resampled, Resampling.BICUBIC),
    'enlarged and reduced, bilinear': (resampled, Resampling.BILINEAR),
  }
  return {
    'as they are': images,
    'not rounded to 8 bits (noise of half a level)': np.float32(images + noise),
    'rounded down, not to the nearest': np.uint8(
      np.floor(images + noise).clip(0)
    ),
    **{
      name: np.stack([change(image, option) for image in images])
      for name, (change, option) in methods.items()
    },
  }


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/cifar10.py')
  parser.add_argument('--data_dir', default='runs/data')
  parser.add_argument('--features', required=True)
  args = parser.parse_args()
  config = override(load_config(args.config), [f'data.dir={args.data_dir}'])
  experiment = build(config.to_dict())
  data, mesh = experiment.data, make_mesh(MeshConfig())
  split = RealData(data, experiment.model.num_classes)
  real, labels = load_all(split.source)
  held_out, _ = load_all(open_source(data, data.test_split))
  held_out = held_out[np.random.default_rng(0).permutation(len(held_out))]

  def features_of(images):
    spec = f'classifier:{args.features}'
    extractor = open_extractor(spec, 'adm', split, lambda: (real, labels))
    return np.concatenate([f.pool for f in extractor([images], mesh, 50)])

  def distance(one, other):
    return f'{frechet_distance(Moments.of(one), Moments.of(other)):.4f}'

  real_features, features = features_of(real), features_of(held_out)
  counts = [n for n in COUNTS if n <= len(held_out)]
  rows = [(n, distance(features[:n], real_features)) for n in counts]
  print(markdown.table(('held-out images', 'FD'), rows))
  order = np.random.default_rng(0).permutation(len(real))
  halves = [real_features[order[i::2]] for i in range(2)]
  size = min(1000, len(halves[1]))
  kernel, _ = kernel_distance(*halves, subset_size=size)
  print(f'Two halves of {len(real)}: FD {distance(*halves)}, KD {kernel:.5f}\n')
  rows = [
    (name, distance(features_of(images), real_features))
    for name, images in changes(held_out).items()
  ]
  print(markdown.table((f'{len(held_out)} held-out images', 'FD'), rows))


if __name__ == '__main__':
  main()
