"""Flags of the command `sample`."""

import argparse

from commands.flags import shared

SUMMARY = (
  'sample images from a run or a folder of weights; the same command again '
  'resumes'
)
USAGE = '(--workdir=RUN | --folder=FOLDER)'
EXAMPLES = """
  python main.py sample --workdir=runs/digits \\
    --guidance=ig:1.5,cfg:1.2@0-0.7 --config.sample.steps=100
  python main.py sample --folder=sit-xl-ig --num=16 \\
    --preset=sit_xl_ig_cfg --autoencoder=sd_vae:vae.safetensors
"""
NOTES = shared.FREE_KEYS


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `sample`."""
  subject, method, output = shared.groups(
    parser, 'what to sample', 'how to sample', 'where to write'
  )
  source = shared.add_source(subject)
  source.add(
    '--config=FILE', 'config file, for --dry_run only', type=shared.path
  )
  subject.add(
    '--num=N',
    'number of images (default: 100; with --preset: 50,000)',
    type=int,
  )
  shared.add_labels(subject)
  shared.add_weights(subject)
  shared.add_guidance(method)
  shared.add_guide(method)
  shared.add_autoencoder(method)
  shared.add_out(output)
  output.add(
    '--format=FORMAT',
    'file format: npz (one samples.npz for the ADM evaluator) or png (a folder '
    'of files)',
    default='npz',
    choices=shared.FORMATS,
  )
  shared.add_overwrite(output)
  shared.add_dry_run(parser, topology=True)
  shared.add_processes(parser)
