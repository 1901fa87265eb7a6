"""Settings that the commands that measure images share.

Flags say what is measured and against what; without them, a run measures as its
section eval says. Details of the metrics are set by other keys of that section.
"""

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
  """Returns the experiment of --config, measured as the flags say."""
  config = load_config(args.config or 'configs/base.py')
  config = override(config, [*eval_overrides(args), *args.overrides])
  experiment = build(config.to_dict())
  if not args.config:
    check_without_data(experiment.eval)
  return experiment


def eval_overrides(args: argparse.Namespace) -> list[str]:
  """Returns the flags that were given, as assignments to the section eval."""
  given = {name: getattr(args, name, None) for name in _FLAGS}
  return [f'eval.{k}={v}' for k, v in given.items() if v is not None]


def check_without_data(config: EvalConfig) -> None:
  """Raises InputError for what needs the training data, where none is known."""
  if config.extractor == 'classifier':
    raise InputError(
      '--extractor is needed, such as inception:FILE or classifier:FOLDER (or '
      '--config, on whose training split a classifier is then trained).'
    )
  if not config.reference:
    raise InputError(
      'real images are needed: --reference (--images of the command reference)'
      ', or --config, whose training split they are.'
    )
