"""The command `train`, which trains a network or reports its cost."""

import argparse

from commands import dry_run
from core.errors import InputError
from train import loop, workdir
from train.config_file import load_config, override
from train.experiment import build
from train.setup import open_setup


def run(args: argparse.Namespace) -> int:
  """Runs `train`, and returns the exit status."""
  config = override(load_config(args.config), args.overrides).to_dict()
  experiment = build(config)
  if 'distill' in config:
    raise InputError(
      'the config has the section distill and describes a student; use the '
      'command distill.'
    )
  if args.dry_run:
    print(dry_run.train(experiment, args.topology))
    return 0
  if args.workdir is None:
    raise InputError('--workdir, the folder of the run, is needed.')
  setup = open_setup(experiment, args.workdir, args.autoencoder)
  with workdir.training(args.workdir, 'train') as folder:
    finished = loop.train(setup, workdir.claim(folder, config))
  return 0 if finished else args.stopped_status
