"""What quantized weights save, and what they change.

  python -m benchmarks.quantize --workdir=runs/demo --guidance=ig:1.5

Converts a run of images by each scheme, as main.py convert does, draws the same
images (labels and noise) from the run and from each folder, and prints:

  file      size of model.safetensors, and its share of the float32 one
  weights   relative L2 error of all parameters
  latents   relative L2 error of the latents against those of float32
  FD        Frechet distance to the training images in features of a classifier
            trained on them (not FID), mean over the seeds, ± standard error
  change    of FD against float32, ± the standard error of that difference, by
            a bootstrap over pairs of images

and the sizes for a network with random weights, --name=SiT-B/2.
"""

import argparse
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

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
from train.runs import Source, run_weights

BATCH = 100


def size_of(folder: pathlib.Path) -> int:
  return (folder / 'model.safetensors').stat().st_size


def error_of(found: np.ndarray, expected: np.ndarray) -> float:
  """Relative L2 distance."""
  return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def vector_of(params: Params) -> np.ndarray:
  """All parameters, (n,)."""
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def draw(sampler: Sampler, guidance, labels, seed) -> np.ndarray:
  """Latents (n, H, W, C) of images 0 to n - 1."""
  parts = []
  for begin in range(0, len(labels), BATCH):
    index = np.arange(begin, begin + BATCH) % len(labels)
    with jax.set_mesh(sampler.mesh):
      x, _ = sampler.latents(guidance, labels[index], index, seed)
    parts.append(jax.device_get(x))
  return np.concatenate(parts)[: len(labels)]


def figures(distances: list[Estimate]) -> tuple[float, float]:
  """Mean over the seeds, and its standard error."""
  errors = np.asarray([distance.error for distance in distances])
  mean = np.mean([distance.value for distance in distances])
  return float(mean), float(np.sqrt(np.square(errors).sum()) / len(errors))


def of_a_run(args: argparse.Namespace, folder: pathlib.Path) -> None:
  """The first table."""
  experiment = Source(args.workdir, is_run=True).open(())
  data, mesh = experiment.data, make_mesh(MeshConfig(), jax.devices()[:1])
  reference = load_all(open_source(data, data.train_split))
  num_classes = experiment.model.num_classes
  network = train_classifier(*reference, num_classes)
  settings = EvalConfig(bootstrap=args.resamples, batch_size=BATCH)
  evaluators = open_evaluators(reference[0], network, settings, mesh)
  params, _ = run_weights(args.workdir, experiment.model, mesh, 'ema')
  exchange(args.workdir, str(folder / 'float32'))
  guidance = parse(args.guidance)
  labels = plan_labels('balanced', args.num, num_classes, 0)

  def drawn(params):
    params = jax.device_put(params, replicated(mesh))
    sampler = Sampler(
      backbone.bind(experiment.model, params),
      experiment.sample,
      path_named(experiment.objective.path),
      experiment.model.latent_shape,
      mesh,
    )
    return [draw(sampler, guidance, labels, n) for n in range(args.seeds)]

  def distances(x):
    images = [np.asarray(latents.to_pixels(jnp.asarray(part))) for part in x]
    return [score(evaluators, part, labels)['features'] for part in images]

  print(
    f'{args.num} images for each of {args.seeds} seeds, guidance '
    f'{args.guidance}, {experiment.sample.solver} with '
    f'{experiment.sample.steps} steps\n\n'
    '| weights | file | share | weights error | latents error | FD | change |\n'
    '|---|---|---|---|---|---|---|'
  )
  of_weights = vector_of(jax.device_get(params))
  whole, expected = size_of(folder / 'float32'), drawn(params)
  wanted = distances(expected)
  value, error = figures(wanted)
  print(f'| float32 | {whole:,} | 1 | | | {value:.3f} ± {error:.3f} | |')
  for scheme in SCHEMES:
    exchange(args.workdir, str(folder / scheme), quantize=scheme)
    _, params, _ = load_folder(folder / scheme)
    x, size = drawn(params), size_of(folder / scheme)
    found = distances(x)
    value, error = figures(found)
    change, paired = figures(
      [a.minus(b) for a, b in zip(found, wanted, strict=True)]
    )
    cells = (
      scheme,
      f'{size:,}',
      f'{size / whole:.3f}',
      f'{error_of(vector_of(params), of_weights):.4f}',
      f'{error_of(np.stack(x), np.stack(expected)):.4f}',
      f'{value:.3f} ± {error:.3f}',
      f'{change:+.3f} ± {paired:.3f}',
    )
    print(f'| {" | ".join(cells)} |', flush=True)


def of_a_size(name: str, folder: pathlib.Path) -> None:
  """The second table."""
  config = DiTConfig(
    size=32, channels=4, num_classes=1000, taps=(4,), **named_size(name)
  )
  rng = np.random.default_rng(0)
  params = {
    path: 0.02 * rng.standard_normal(leaf.shape, np.float32)
    for path, leaf in flatten(backbone.shapes(config)).items()
  }
  count, whole = sum(leaf.size for leaf in params.values()), None
  print(f'\n{name}, {count:,} parameters\n\n| weights | file | share |')
  print('|---|---|---|')
  for scheme in (None, *SCHEMES):
    place = folder / f'size-{scheme}'
    save_folder(place, config, unflatten(params), info={}, scheme=scheme)
    size = size_of(place)
    whole = whole or size
    print(
      f'| {scheme or "float32"} | {size:,} | {size / whole:.3f} |', flush=True
    )


if __name__ == '__main__':
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--workdir', help='of a run; none: only the sizes')
  parser.add_argument('--guidance', default='none')
  parser.add_argument('--num', type=int, default=500)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--resamples', type=int, default=50)
  parser.add_argument('--name', default='SiT-B/2')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    if args.workdir:
      of_a_run(args, pathlib.Path(folder))
    of_a_size(args.name, pathlib.Path(folder))
