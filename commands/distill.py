"""The command `distill`, which trains a few-step student of a network."""

import argparse

from commands import dry_run
from core.errors import InputError
from core.processes import print_once
from distill import run as distilling
from distill import sd35_flash
from distill.config import build_student
from train import workdir
from train.config_file import load_config, override


def run(args: argparse.Namespace) -> int:
  """Runs `distill`, and returns the exit status."""
  overrides = [*args.overrides, f'distill.teacher={args.teacher}']
  base = load_config(args.config)
  build_student(base.to_dict())  # the config file must describe a student
  config = override(base, overrides).to_dict()
  experiment = build_student(config)
  if args.dry_run:
    experiments = [experiment]
    if experiment.distill.stages:
      experiments = [
        build_student(stage)
        for stage in sd35_flash.stages(args.config, overrides)[1]
      ]
    print('\n\n'.join(map(dry_run.distill, experiments)))
    return 0
  if args.workdir is None:
    raise InputError('--workdir, the folder of the student, is needed.')
  if experiment.distill.stages:
    text = sd35_flash.run(
      args.config, overrides, args.workdir, args.autoencoder
    )
    if text is not None:
      print_once(text)
    return 0 if text is not None else args.stopped_status
  with workdir.training(args.workdir, 'distill') as folder:
    finished = distilling.distill(experiment, folder, config, args.autoencoder)
  return 0 if finished else args.stopped_status
