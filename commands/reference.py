"""The command `reference`: statistics of real images."""

import argparse
import dataclasses

from etils import epath

from commands.eval_settings import experiment_of
from core.errors import InputError
from core.processes import print_once, writing_target
from dit.sharding import make_mesh
from evaluate.evaluator import open_evaluator, records_decoder
from evaluate.reference import is_statistics, save_reference
from train import workdir
from train.experiment import Experiment


def run(args: argparse.Namespace) -> None:
  """Runs `reference`."""
  experiment = experiment_of(args)
  print_once(make_reference(experiment, args.target, args.autoencoder))


def make_reference(
  experiment: Experiment, target: str, autoencoder: str | None = None
) -> str:
  """Writes the statistics of `eval.reference`, or of the training split.

  Args:
    experiment: settings; only the sections eval, data and mesh count.
    target: path of the .npz to write.
    autoencoder: decoder of a training split of latents, if not remembered.

  Returns:
    A report of what was written.

  Raises:
    InputError: for input that is missing or does not fit.
  """
  path = epath.Path(target).expanduser()
  if path.suffix != '.npz' or path.exists():
    raise InputError(
      f'--to is {target}, expected a new file that ends with .npz.'
    )
  if (images := experiment.eval.reference) and is_statistics(images):
    raise InputError(f'{images} holds statistics already, not only images.')
  mesh = make_mesh(experiment.mesh)
  decoder = records_decoder(experiment.eval, experiment.data, autoencoder, mesh)
  with writing_target(path, 'reference'):
    evaluator = open_evaluator(
      dataclasses.replace(experiment.eval, metrics=()),
      experiment.data,
      experiment.model.num_classes,
      mesh,
      labels=False,
      count=None,
      decoder=decoder,
    )
    reference = evaluator.reference
    about = {**reference.about, **workdir.environment()}
    save_reference(path, dataclasses.replace(reference, about=about))
  return (
    f'{path}: {evaluator.extractor.name} statistics of {reference.count} '
    f'images of {about["images"]} (SHA-256 {about["sha256"][:8]}...).'
  )
