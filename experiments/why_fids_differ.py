"""The same images, other numbers: what moves a Frechet distance.

  python -m experiments.why_fids_differ --config=configs/cifar10.py \
    --data_dir=data --features=features/cifar10

Real held-out images against the real training images, changed in one thing at
a time. Features are of a classifier (main.py train-features). With --inception,
the published weights, distances between preprocessings are taken too; with
--inception=random of a network that was never trained, which shows that they
differ, and not by how much FID would.
"""

import argparse
import io

import jax
import numpy as np
from PIL import Image
from PIL.Image import Resampling

from dit.sharding import MeshConfig, make_mesh
from evaluate import classifier
from evaluate.extractor import classifier_extractor, inception_extractor
from evaluate.extractor_registry import open_extractor
from evaluate.frechet import Moments, frechet_distance
from evaluate.kid import kernel_distance
from evaluate.resize import PRESETS
from input_pipeline.sources import load_all, open_source
from train.config_file import load_config, override
from train.experiment import build

COUNTS = (250, 500, 1000, 2500, 5000, 10_000)
IMAGES = 500  # of Inception: a CPU takes ten a second


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
  """Through a JPEG file and back."""
  data = io.BytesIO()
  Image.fromarray(image).save(data, 'jpeg', quality=quality)
  return np.asarray(Image.open(data))


def resampled(image: np.ndarray, method: Resampling) -> np.ndarray:
  """Made twice as large and small again."""
  side = image.shape[0]
  large = Image.fromarray(image).resize((2 * side, 2 * side), method)
  return np.asarray(large.resize((side, side), method))


def changes(images: np.ndarray) -> dict[str, np.ndarray]:
  """The images, changed as pipelines change them; by what was done."""
  rng = np.random.default_rng(0)
  noise = rng.uniform(-0.5, 0.5, images.shape)
  each = lambda function, *args: np.stack(  # noqa: E731
    [function(image, *args) for image in images]
  )
  if images.shape[-1] != 3:
    return {'as they are': images}
  return {
    'as they are': images,
    'not rounded to 8 bits (noise of half a level)': np.float32(images + noise),
    'rounded down, not to the nearest': np.uint8(
      np.floor(images + noise).clip(0)
    ),
    'JPEG of quality 95': each(jpeg, 95),
    'JPEG of quality 75': each(jpeg, 75),
    'enlarged and reduced, bicubic': each(resampled, Image.Resampling.BICUBIC),
    'enlarged and reduced, bilinear': each(
      resampled, Image.Resampling.BILINEAR
    ),
  }


def random_inception() -> dict[str, np.ndarray]:
  """Tensors of an Inception that was never trained."""
  from flax import nnx

  from evaluate.inception import Inception

  shapes = nnx.to_pure_dict(nnx.split(nnx.eval_shape(Inception))[1])
  rng, tensors = np.random.default_rng(0), {}
  for path, leaf in jax.tree.leaves_with_path(shapes):
    *name, kind = jax.tree_util.keystr(path, simple=True, separator='.').split(
      '.'
    )
    name = '.'.join(name)
    if kind == 'kernel':
      height, width, inputs, outputs = leaf.shape
      weight = rng.normal(size=(outputs, inputs, height, width))
      scale = np.sqrt(2 / (height * width * inputs))
      tensors[f'{name}.conv.weight'] = np.float32(weight * scale)
      for key, value in (
        ('weight', 1), ('bias', 0), ('running_mean', 0), ('running_var', 1),
      ):  # fmt: skip
        tensors[f'{name}.bn.{key}'] = np.full(outputs, value, np.float32)
  tensors['fc.weight'] = np.zeros((1008, 2048), np.float32)
  return tensors


def features_of(extractor, images, mesh) -> np.ndarray:
  """(n, F), all at once."""
  return np.concatenate([f.pool for f in extractor([images], mesh, 50)])


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/cifar10.py')
  parser.add_argument('--data_dir', default='runs/data')
  parser.add_argument('--features', required=True)
  parser.add_argument('--inception')
  args = parser.parse_args()
  config = override(load_config(args.config), [f'data.dir={args.data_dir}'])
  experiment = build(config.to_dict())
  data, mesh = experiment.data, make_mesh(MeshConfig())
  real, _ = load_all(open_source(data, data.train_split))
  held_out, _ = load_all(open_source(data, data.test_split))
  held_out = held_out[np.random.default_rng(0).permutation(len(held_out))]

  network, about = classifier.load(args.features)
  extractor = classifier_extractor(network, about)
  real_features = features_of(extractor, real, mesh)
  reference = Moments.of(real_features)
  features = features_of(extractor, held_out, mesh)
  print(f'{len(real)} images as reference, features of {extractor.name}\n')
  print('| held-out images | FD |\n|---|---|')
  for count in (c for c in COUNTS if c <= len(held_out)):
    distance = frechet_distance(Moments.of(features[:count]), reference)
    print(f'| {count} | {distance:.3f} |')
  order = np.random.default_rng(0).permutation(len(real))
  halves = [real_features[order[i::2]] for i in range(2)]
  size = min(1000, len(halves[1]))
  kernel, _ = kernel_distance(*halves, subset_size=size)
  distance = frechet_distance(*map(Moments.of, halves))
  print(f'\nTwo halves of the {len(real)}: FD {distance:.4f}, KD {kernel:.5f}')
  print(f'\n| {len(held_out)} held-out images | FD |\n|---|---|')
  for name, images in changes(held_out).items():
    moments = Moments.of(features_of(extractor, images, mesh))
    print(
      f'| {name} | {frechet_distance(moments, reference):.3f} |', flush=True
    )

  if args.inception:
    weights = 'published'
    if args.inception == 'random':
      weights, tensors = 'random', random_inception()
    found = {}
    for preset in PRESETS[1:]:
      if args.inception == 'random':
        inception = inception_extractor(tensors, preprocessing=preset, about={})
      else:
        spec = f'inception:{args.inception}'
        inception = open_extractor(spec, preset, data, 0)
      for name, images in (('real', real), ('held out', held_out)):
        pool = features_of(inception, images[:IMAGES], mesh)
        found[preset, name] = Moments.of(pool)
    print(f'\nInception, {weights} weights, {IMAGES} images of each\n')
    print('| images | preprocessing | against | preprocessing | FD |')
    print('|---|---|---|---|---|')
    own = [(('held out', p), ('real', p)) for p in PRESETS[1:]]
    across = [(('real', p), ('real', 'torch_fidelity')) for p in PRESETS[2:]]
    for (a, p), (b, q) in own + across:
      distance = frechet_distance(found[p, a], found[q, b])
      print(f'| {a} | {p} | {b} | {q} | {distance:.4g} |')
