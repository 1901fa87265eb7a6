"""Measures how much space quantized weights save, and how samples change.

  python -m benchmarks.quantize --workdir=runs/demo --guidance=ig:1.5
  python -m benchmarks.quantize --name=SiT-B/2   # file sizes, random weights

Applies each scheme of main.py convert to a run that was trained on pixels. The
samples of float32 and of each scheme have the same labels and noise. Prints:

  file      size of model.safetensors, and ratio to the size in float32
  weights   relative L2 error of the parameters, against float32
  latents   relative L2 error of the samples' latents, against float32
  FD        Frechet distance to the training images (not FID), in features of a
            classifier trained on these images; mean over seeds ± standard error
  change    FD minus the FD of float32, ± the standard error of this difference,
            which comes from a bootstrap over pairs of images
"""

import argparse
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from commands.convert import exchange
from dit import backbone, latents
from dit.base import Params
from dit.config import DiTConfig, named_size
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh, replicated
from dit.weights.convert import flatten, unflatten
from dit.weights.folder import load_folder, save_folder
from dit.weights.quantize import SCHEMES
from evaluate.classifier import train_classifier
from evaluate.compare import open_evaluators, score
from evaluate.evaluator import EvalConfig
from evaluate.metrics import Estimate
from guidance import parse
from input_pipeline.sources import load_all, open_source
from sample.generate import Sampler, plan_labels
from train.runs import Source

BATCH = 100


def size_of(folder: pathlib.Path) -> int:
  return (folder / 'model.safetensors').stat().st_size


def error_of(found: np.ndarray, expected: np.ndarray) -> float:
  return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def vector_of(params: Params) -> np.ndarray:
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def draw(sampler: Sampler, guidance, labels, seed) -> np.ndarray:
  """Samples the latents (n, H, W, C) of images 0 to n - 1."""
  parts = []
  for begin in range(0, len(labels), BATCH):
    index = np.arange(begin, begin + BATCH) % len(labels)
    with jax.set_mesh(sampler.mesh):
      x, _ = sampler.latents(guidance, labels[index], index, seed)
    parts.append(jax.device_get(x))
  return np.concatenate(parts)[: len(labels)]


def figures(distances: list[Estimate]) -> str:
  """Returns the mean over the seeds ± its standard error, as text."""
  errors = np.asarray([distance.error for distance in distances])
  mean = np.mean([distance.value for distance in distances])
  return f'{mean:.3f} ± {np.sqrt(np.square(errors).sum()) / len(errors):.3f}'


def of_a_run(args: argparse.Namespace, folder: pathlib.Path) -> list[dict]:
  """Returns table rows of a run, for float32 and each scheme."""
  experiment = Source(args.workdir, is_run=True).open(())
  data, mesh = experiment.data, make_mesh(MeshConfig(), jax.devices()[:1])
  reference = load_all(open_source(data, data.train_split))
  num_classes = experiment.model.num_classes
  network = train_classifier(*reference, num_classes)
  settings = EvalConfig(bootstrap=args.resamples, batch_size=BATCH)
  evaluators = open_evaluators(reference[0], network, settings, mesh)
  guidance = parse(args.guidance)
  labels = plan_labels('balanced', args.num, num_classes, 0)

  def sample(params):
    params = jax.device_put(params, replicated(mesh))
    sampler = Sampler(
      backbone.bind(experiment.model, params),
      experiment.sample,
      path_named(experiment.objective.path),
      experiment.model.latent_shape,
      mesh,
    )
    x = [draw(sampler, guidance, labels, n) for n in range(args.seeds)]
    images = [np.asarray(latents.to_pixels(jnp.asarray(part))) for part in x]
    distances = [score(evaluators, part, labels)['features'] for part in images]
    return np.stack(x), distances

  rows: list[dict[str, Any]] = []
  for scheme in (None, *SCHEMES):
    path = folder / f'run-{scheme}'
    exchange(args.workdir, str(path), quantize=scheme)
    _, params, _ = load_folder(path)
    row = {'weights': scheme or 'float32', 'file': size_of(path)}
    x, values = sample(params)
    if not rows:
      total, weights, expected, bases = row['file'], params, x, values
    else:
      pairs = zip(values, bases, strict=True)
      row |= {
        'weights error': error_of(vector_of(params), vector_of(weights)),
        'latents error': error_of(x, expected),
        'change': figures([a.minus(b) for a, b in pairs]),
      }
    rows.append(row | {'share': row['file'] / total, 'FD': figures(values)})
  return rows


def of_a_size(name: str, folder: pathlib.Path) -> list[dict]:
  """Returns table rows of a network with random weights."""
  config = DiTConfig(
    size=32, channels=4, num_classes=1000, taps=(4,), **named_size(name)
  )
  rng = np.random.default_rng(0)
  params = {
    path: 0.02 * rng.standard_normal(leaf.shape, np.float32)
    for path, leaf in flatten(backbone.shapes(config)).items()
  }
  sizes = {}
  for scheme in (None, *SCHEMES):
    target = folder / f'size-{scheme}'
    save_folder(target, config, unflatten(params), info={}, scheme=scheme)
    sizes[f'{name}, {scheme or "float32"}'] = size_of(target)
  total = max(sizes.values())
  return [
    {'weights': weights, 'file': size, 'share': size / total}
    for weights, size in sizes.items()
  ]


if __name__ == '__main__':
  parser = timing.parser(__doc__, 'quantize')
  parser.add_argument('--workdir', help='folder of a run (or sizes only)')
  parser.add_argument('--guidance', default='none')
  parser.add_argument('--num', type=int, default=500)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--resamples', type=int, default=50)
  parser.add_argument('--name', default='SiT-B/2')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    rows = of_a_run(args, pathlib.Path(folder)) if args.workdir else []
    rows += of_a_size(args.name, pathlib.Path(folder))
  timing.publish(args.json, rows)
