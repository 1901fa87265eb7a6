"""Evaluation settings: flags override the section `eval` of the config."""

import argparse

from core.errors import InputError
from evaluate.evaluator import EvalConfig
from train.config_file import load_config, override
from train.experiment import Experiment, build

_FLAGS = (
  'extractor',
  'preprocessing',
  'reference',
  'metrics',
  'repeats',
  'bootstrap',
)


def experiment_of(args: argparse.Namespace) -> Experiment:
  """Returns the experiment of --config; flags override its section `eval`."""
  config = load_config(args.config or 'configs/base.py')
  config = override(config, [*eval_overrides(args), *args.overrides])
  experiment = build(config.to_dict())
  if not args.config:
    check_without_data(experiment.eval)
  return experiment


def eval_overrides(args: argparse.Namespace) -> list[str]:
  """Returns the flags that the user set, as assignments to section `eval`."""
  values = {name: getattr(args, name, None) for name in _FLAGS}
  return [f'eval.{k}={v}' for k, v in values.items() if v is not None]


def check_without_data(config: EvalConfig) -> None:
  """Raises InputError if the settings need a config file's training split."""
  if config.extractor == 'classifier':
    raise InputError(
      '--extractor is needed, such as inception:FILE or classifier:FOLDER (or '
      '--config, to train a classifier on its training split).'
    )
  if not config.reference:
    raise InputError(
      'real images are needed: --reference (--images for the command '
      'reference), or --config for its training split.'
    )
