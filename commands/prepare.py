"""The command `prepare`, which turns image files into training records."""

import argparse
import dataclasses
from typing import Annotated

import jax
from absl import logging

from commands import advice
from core.errors import InputError, shorten
from core.processes import together
from core.ranges import FolderName, check_value
from dit import model
from dit.autoencoder import Autoencoder
from dit.autoencoder.files import read_autoencoder
from dit.sharding import MeshConfig, check_batch, make_mesh
from input_pipeline.image_files import open_images
from input_pipeline.prepare import PrepareConfig, layout_of
from input_pipeline.prepare import prepare as write_records
from input_pipeline.records import Metadata
from input_pipeline.shards import check_shards
from input_pipeline.sources import DataConfig
from input_pipeline.splits import classes_for
from sample.decoder import remembered
from train.config_file import load_config, override
from train.experiment import Experiment, build


def run(args: argparse.Namespace) -> None:
  """Runs `prepare`."""
  overrides = list(args.overrides)
  # The flag --autoencoder also sets the key data.autoencoder.
  if args.autoencoder and not any(
    word.startswith('data.autoencoder=') for word in overrides
  ):
    name = args.autoencoder.partition(':')[0]
    overrides.append(f'data.autoencoder={name}')
  experiment = build(override(load_config(args.config), overrides).to_dict())
  names = [field.name for field in dataclasses.fields(PrepareConfig)]
  config = PrepareConfig(**{name: getattr(args, name) for name in names})
  if args.verify:
    print(verify(experiment, args.split))
  elif args.images is None:
    raise InputError(
      '--images is needed: a folder, .zip, tfds:NAME, .npz or IDX file.'
    )
  else:
    print(
      prepare(
        experiment.data,
        config,
        args.images,
        args.split,
        args.autoencoder,
        class_names=args.class_names,
      )
      + advice.training(args.config, overrides, experiment, args.split)
    )


def prepare(
  data: DataConfig,
  config: PrepareConfig,
  images: str,
  split: str,
  autoencoder: str | None,
  class_names: str | None = None,
) -> str:
  """Writes or resumes data.dir/data.name/SPLIT; returns a one-line report.

  Every process of a job calls this function and writes a share of the records.
  Raises InputError if images, autoencoder and config do not fit together, and
  PrepareError if the work cannot continue.

  Args:
    data: Location of the records, and whether to store mirrored images as well.
    config: Settings of the preparation.
    images: Source of the images in the syntax of `image_files.open_images`.
    split: Name of the split, such as train.
    autoencoder: Name and files in the syntax of `dit.autoencoder.files`; None
      for pixels.
    class_names: Names of the classes 0, 1, ..., separated by commas; None for
      the names of the source.
  """
  check_value('--split', split, Annotated[str, FolderName()])
  if data.name == 'digits':
    raise InputError(
      "data.name 'digits' is reserved for the built-in digits, which need no "
      'preparation; choose another name.'
    )
  with together():
    files = open_images(images, data.dir)
    if class_names is not None:
      names = [name.strip() for name in class_names.split(',')]
      files = files.rename(names)
    folder = data.prepared(split)
    files = files.relabel(classes_for(folder, files.classes))
    mesh = make_mesh(MeshConfig(), jax.local_devices())
    check_batch(mesh, config.batch_size, '--batch_size')
    name = (autoencoder or 'pixels').partition(':')[0]
    if name != data.autoencoder:
      raise InputError(
        f'--autoencoder is {name}, but data.autoencoder is {data.autoencoder}; '
        'make them agree.'
      )
    encoder = read_autoencoder(autoencoder, mesh, 'encoder')
    layout = layout_of(config, encoder, data.flip, files.channels)
  origin = {'autoencoder': about_autoencoder(name, encoder)}
  decoder = remembered(autoencoder, encoder)
  logging.info(
    '%s: %d images of %d classes, to %s %s.',
    images, files.count, len(files.classes), layout.content, layout.shape,
  )  # fmt: skip
  metadata = write_records(
    files,
    encoder,
    config,
    layout,
    folder,
    about=origin,
    decoder=decoder.to_json() if decoder else None,
  )
  counts = zip(metadata.classes, metadata.counts, strict=True)
  if empty := [name for name, count in counts if not count]:
    logging.warning(
      '%s has no record of the classes %s, which keep their labels.',
      folder, shorten(empty),
    )  # fmt: skip
  return (
    f'{folder}: {metadata.records} records in {len(metadata.shards)} files, '
    f'{len(metadata.broken)} broken images left out.'
  )


def verify(experiment: Experiment, split: str) -> str:
  """Checks a prepared split; raises InputError if records are damaged."""
  check_value('--split', split, Annotated[str, FolderName()])
  folder = experiment.data.prepared(split)
  if problems := check_shards(folder):
    raise InputError(' '.join(problems))
  return f'{folder}: {Metadata.load(folder).records} records are whole.'


def about_autoencoder(
  name: str, autoencoder: Autoencoder | None
) -> dict[str, str | None]:
  """Returns the description of an autoencoder for a protocol."""
  return {
    'name': name,
    'encoder_sha256': None
    if autoencoder is None
    else model.fingerprint(autoencoder.params['encoder']),
  }
