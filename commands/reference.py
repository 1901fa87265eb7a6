"""The command `reference`, which computes statistics of real images."""

import argparse
import dataclasses

from etils import epath

from commands.eval_settings import experiment_of
from core.errors import InputError
from core.processes import print_once, writing_target
from dit.sharding import make_mesh
from evaluate.evaluator import open_evaluator, records_decoder
from evaluate.real_images import RealData
from evaluate.reference import is_statistics, save_reference
from train import workdir


def run(args: argparse.Namespace) -> None:
  """Runs `reference`."""
  experiment, target = experiment_of(args), args.target
  path = epath.Path(target).expanduser()
  if path.suffix != '.npz' or path.exists():
    raise InputError(
      f'--to is {target}, expected a new file that ends with .npz.'
    )
  if (images := experiment.eval.reference) and is_statistics(images):
    raise InputError(f'{images} holds statistics already, not only images.')
  mesh = make_mesh(experiment.mesh)
  decoder = records_decoder(
    experiment.eval, experiment.data, args.autoencoder, mesh
  )
  with writing_target(path, 'reference'):
    evaluator = open_evaluator(
      dataclasses.replace(experiment.eval, metrics=()),
      RealData(experiment.data, experiment.model.num_classes, decoder),
      mesh,
      labels=False,
      count=None,
    )
    reference = evaluator.reference
    metadata = {**reference.about, **workdir.environment()}
    save_reference(path, dataclasses.replace(reference, about=metadata))
  print_once(
    f'{path}: {evaluator.extractor.name} statistics of {reference.count} '
    f'images of {metadata["images"]} (SHA-256 {metadata["sha256"][:8]}...).'
  )
