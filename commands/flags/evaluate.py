"""Flags of the command `evaluate`."""

import argparse

from commands.flags import shared

SUMMARY = 'score images against real ones: FID, sFID, IS, precision, recall'
USAGE = '(--samples=IMAGES | --workdir=RUN | --folder=FOLDER)'
EXAMPLES = """
  python main.py evaluate --workdir=runs/digits --guidance=ig:1.5 --num=500
  python main.py evaluate --samples=samples.npz --preset=sit_xl_ig_cfg \\
    --reference=VIRTUAL_imagenet256_labeled.npz \\
    --extractor=inception:inception.safetensors
"""
NOTES = '--config.eval.KEY=VALUE sets details of the metrics (configs/base.py).'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `evaluate`."""
  subject, real, score, method, output = shared.groups(
    parser,
    'what to evaluate',
    'real images',
    'how to score',
    'how to sample',
    'where to write',
  )
  source = subject.choice()
  source.add(
    '--samples=IMAGES',
    'images to score: an .npz, a folder, a .zip or tfds:NAME:SPLIT',
    type=shared.path,
  )
  source.add(
    '--workdir=RUN',
    'run to sample from; the images are not saved',
    type=shared.path,
  )
  source.add(
    '--folder=FOLDER', 'folder of weights to sample from', type=shared.web_path
  )
  subject.add(
    '--num=N',
    'number of images in each set (default: 50,000, or all of --samples)',
    type=int,
  )
  shared.add_labels(subject)
  shared.add_weights(subject)
  shared.add_reference_flag(real)
  shared.add_real_images_config(real)
  shared.add_extractor(score)
  score.add(
    '--metrics=NAMES',
    'metrics separated by commas: fid, sfid, is, kid, precision, recall, fd, '
    'accuracy or fd_inf (default: all possible metrics except fd_inf)',
    type=shared.metrics,
  )
  shared.add_standard_errors(score)
  shared.add_guidance(method)
  shared.add_guide(method)
  shared.add_autoencoder(method)
  shared.add_out(output)
  shared.add_processes(parser)
