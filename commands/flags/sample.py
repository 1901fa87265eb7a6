"""Flags of the command sample."""

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
  what, how, where = shared.groups(
    parser, 'what to sample', 'how to sample', 'where to write'
  )
  source = what.add_mutually_exclusive_group(required=True)
  source.add_argument(
    '--workdir', metavar='RUN', type=shared.path, help='folder of the run'
  )
  source.add_argument(
    '--folder',
    metavar='FOLDER',
    type=shared.web_path,
    help='folder of weights written by convert',
  )
  source.add_argument(
    '--config',
    metavar='FILE',
    type=shared.path,
    help='config file, for --dry_run only',
  )
  what.add_argument(
    '--num',
    metavar='N',
    type=int,
    help='number of images (default: 100; with --preset: 50,000)',
  )
  shared.add_labels(what)
  shared.add_weights(what)
  shared.add_guidance(how)
  shared.add_guide(how)
  shared.add_autoencoder(how)
  shared.add_out(where)
  where.add_argument(
    '--format',
    choices=shared.FORMATS,
    default='npz',
    help='one samples.npz for the ADM evaluator, or a folder of PNG files '
    '(default: %(default)s)',
  )
  shared.add_overwrite(where)
  shared.add_dry_run(parser, topology=True)
  shared.add_processes(parser)
