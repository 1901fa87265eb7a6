"""Flags of the command `prepare`."""

import argparse

from commands.flags import shared

SUMMARY = (
  'turn images into records for training; the same command again resumes'
)
USAGE = '--images=IMAGES --config.data.name=NAME'
EXAMPLES = """
  python main.py prepare --images=imagenet/train \\
    --config.data.name=imagenet256 --autoencoder=sd_vae:vae.safetensors
"""
NOTES = shared.ALL_KEYS


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `prepare`."""
  subject, method, output = shared.groups(
    parser,
    'what to prepare',
    'how to prepare',
    'where to write (data.dir/data.name/SPLIT)',
  )
  subject.add(
    '--images=IMAGES',
    'folder or .zip of files CLASS/IMAGE, tfds:NAME[:SPLIT], .npz that sample '
    'wrote, or IDX file of images (for tar files of ImageNet, see '
    'docs/data.md)',
    type=shared.path,
  )
  subject.add(
    '--class_names=NAMES',
    'names of the classes 0, 1, ..., separated by commas (default: the names '
    'of the source; .npz and IDX files have only numbers)',
  )
  subject.add('--config=FILE', 'config file', default='configs/base.py')
  method.add(
    f'--autoencoder={shared.AUTOENCODER}',
    'autoencoder that encodes the images: its name and its published '
    'files, or their folder (default: none, which keeps pixels)',
    type=shared.path,
  )
  method.add('--image_size=PIXELS', 'size of the center crop', default=256)
  method.add(
    '--dtype=DTYPE',
    'data type of the mean and std of latents, float16 or float32',
    default='float16',
  )
  method.add(
    '--max_broken=N', 'largest number of broken images to skip', default=100
  )
  method.add(
    '--batch_size=N',
    'number of images per call of the encoder, in each process',
    default=64,
  )
  method.add('--threads=N', 'number of threads that read images', default=16)
  output.add('--split=NAME', 'split to write', default='train')
  output.add('--shard_records=N', 'number of images per file', default=4096)
  output.add('--verify', 'check all records of the split, and write nothing')
  shared.add_processes(parser)
