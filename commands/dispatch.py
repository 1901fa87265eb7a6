"""The commands: each calls what does the work, with arguments from its flags.

Importing this module imports JAX and takes seconds, so `main` does it after the
flags are checked.
"""

import argparse
from collections.abc import Sequence
from typing import Annotated, Any

import jax

from commands import (
  advice,
  convert,
  dry_run,
  evaluate,
  prepare,
  sample,
  train_features,
)
from commands.report import report as reporting
from commands.sample_job import Request
from core import cluster, signals
from core.errors import InputError
from core.ranges import Range, check_value
from distill import run as distilling
from distill import sd35_flash
from train import loop, workdir
from train.config_file import load_config, override
from train.experiment import Experiment, build
from train.metrics_log import set_up_logging
from train.runs import Source

ExitStatus = Annotated[int, Range(0, 255)]


def _prepare(args: argparse.Namespace) -> None:
  overrides = list(args.overrides)
  # The flag names the autoencoder; the key need not be given beside it.
  if args.autoencoder and not any(
    word.startswith('data.autoencoder=') for word in overrides
  ):
    name = args.autoencoder.partition(':')[0]
    overrides.append(f'data.autoencoder={name}')
  experiment = build(override(load_config(args.config), overrides).to_dict())
  if args.verify:
    print(prepare.verify(experiment, args.split))
  elif args.images is None:
    raise InputError('--images is needed: a folder, a .zip, or tfds:NAME.')
  else:
    print(
      prepare.prepare(experiment, args.images, args.split, args.autoencoder)
      + advice.training(args.config, overrides, experiment, args.split)
    )


def _train(args: argparse.Namespace) -> int:
  config = override(load_config(args.config), args.overrides).to_dict()
  experiment = build(config)
  if experiment.distill.method:
    raise InputError(
      'the config is that of a student (distill.method is '
      f'{experiment.distill.method}); give the command distill.'
    )
  if args.dry_run:
    print(dry_run.train(experiment, args.topology))
    return 0
  if args.workdir is None:
    raise InputError('--workdir is needed, the folder of the run.')
  loop.check(experiment, args.workdir, args.autoencoder)
  with workdir.training(args.workdir, 'train') as place:
    finished = loop.train(
      experiment, workdir.claim(place, config), args.autoencoder
    )
  return 0 if finished else args.stopped_status


def _distill(args: argparse.Namespace) -> int:
  overrides = [*args.overrides, f'distill.teacher={args.teacher}']
  config = override(load_config(args.config), overrides).to_dict()
  experiment = build(config)
  if args.dry_run:
    experiments = [experiment]
    if experiment.distill.stages:
      experiments = [
        build(each) for each in sd35_flash.stages(args.config, overrides)[1]
      ]
    print('\n\n'.join(map(dry_run.distill, experiments)))
    return 0
  if args.workdir is None:
    raise InputError('--workdir is needed, the folder of the student.')
  if experiment.distill.stages:
    text = sd35_flash.run(
      args.config, overrides, args.workdir, args.autoencoder
    )
    if text is not None:
      _say(text)
    return 0 if text is not None else args.stopped_status
  with workdir.training(args.workdir, 'distill') as place:
    finished = distilling.distill(experiment, place, config, args.autoencoder)
  return 0 if finished else args.stopped_status


def _request(
  args: argparse.Namespace, overrides: Sequence[str] = ()
) -> Request:
  """Returns what sampling commands share; the user's overrides come last."""
  guide = None
  if args.guide:
    guide = Source.at(args.guide, step=args.guide_step)
  elif args.guide_step is not None:
    raise InputError('--guide_step needs --guide.')
  source = Source(
    args.workdir or args.folder, bool(args.workdir), args.weights, args.step
  )
  return Request(
    source,
    [*overrides, *args.overrides],
    guide,
    args.seed,
    args.out,
    args.autoencoder,
  )


def _preset(
  args: argparse.Namespace,
) -> tuple[str | None, list[str], dict[str, Any]]:
  """Returns guidance, overrides and the published row, as --preset sets them.

  The flag --guidance replaces the guidance; without either it is None.
  """
  if args.preset is None:
    return args.guidance, [], {}
  guidance, overrides, row = sample.preset(args.preset)
  return args.guidance or guidance, overrides, row


def _sample(args: argparse.Namespace) -> None:
  guidance, overrides, row = _preset(args)
  guidance = guidance or 'none'
  if args.dry_run:
    overrides = [*overrides, *args.overrides]
    if args.config:
      config = override(load_config(args.config), overrides).to_dict()
      experiment = build(config)
    else:
      experiment = Source.at(args.workdir or args.folder).open(overrides)
    print(dry_run.sample(experiment, guidance, args.topology))
    return
  if args.config:
    raise InputError('sample --config is for --dry_run: weights are needed.')
  sample.sample(
    _request(args, overrides),
    guidance,
    num=row.get('num', 100) if args.num is None else args.num,
    labels=args.labels or row.get('labels', 'balanced'),
    form=args.format,
    overwrite=args.overwrite,
    preset=args.preset,
  )


def _compare(args: argparse.Namespace) -> None:
  print(sample.compare(_request(args)))


def _sweep(args: argparse.Namespace) -> None:
  table = sample.sweep(
    _request(args, _eval_keys(args)),
    args.guidance,
    metric=args.metric,
    num=args.num,
    overwrite=args.overwrite,
  )
  print(table, end='')


def _convert(args: argparse.Namespace) -> None:
  report = convert.exchange(
    args.source,
    args.target,
    family=args.family,
    num_heads=args.num_heads,
    taps=args.taps,
    null_label=False if args.no_null_label else None,
    weights=args.weights,
    quantize=args.quantize,
    allow_nonfinite=args.allow_nonfinite,
  )
  print(report)


def _say(text: str) -> None:
  """Prints a text on the first process of a job."""
  if jax.process_index() == 0:
    print(text)


def _configured(args: argparse.Namespace) -> Experiment:
  """Returns the experiment of a config file and of flags for its keys."""
  config = load_config(args.config or 'configs/base.py')
  config = override(config, [*_eval_keys(args), *args.overrides])
  experiment = build(config.to_dict())
  if not args.config:
    evaluate.check_without_data(experiment.eval)
  return experiment


def _eval_keys(args: argparse.Namespace) -> list[str]:
  """Returns flags that stand for keys of the section eval, as assignments."""
  given = {
    key: getattr(args, key, None)
    for key in (
      'extractor', 'preprocessing', 'reference', 'metrics', 'repeats',
      'bootstrap',
    )
  }  # fmt: skip
  return [f'eval.{k}={v}' for k, v in given.items() if v is not None]


def _evaluate(args: argparse.Namespace) -> None:
  guidance, overrides, row = _preset(args)
  if args.samples is None:
    if args.config:
      raise InputError('--config is for --samples: a run has its own config.')
    overrides = [*overrides, *_eval_keys(args)]
    text = evaluate.evaluate_run(
      _request(args, overrides),
      guidance or 'none',
      num=row.get('num', 50_000) if args.num is None else args.num,
      labels=args.labels or row.get('labels', 'balanced'),
      row=row,
      preset=args.preset,
    )
  else:
    drawing = ('guidance', 'labels', 'weights', 'step', 'guide')
    for name in drawing:
      if getattr(args, name) is not None:
        raise InputError(f'--{name} is for drawing, not for --samples.')
    text = evaluate.evaluate_samples(
      _configured(args),
      args.samples,
      row=row,
      num=args.num,
      out=args.out,
      autoencoder=args.autoencoder,
    )
  _say(text)


def _report(args: argparse.Namespace) -> None:
  print(reporting.report(_request(args), args.guidance, draw=not args.no_draw))


def _reference(args: argparse.Namespace) -> None:
  experiment = _configured(args)
  _say(evaluate.make_reference(experiment, args.target, args.autoencoder))


def _train_features(args: argparse.Namespace) -> None:
  experiment = _configured(args)
  _say(
    train_features.train_features(
      experiment,
      args.target,
      steps=args.steps,
      autoencoder=args.autoencoder,
    )
  )


RUNS = {
  'prepare': _prepare,
  'train': _train,
  'distill': _distill,
  'sample': _sample,
  'compare': _compare,
  'sweep': _sweep,
  'evaluate': _evaluate,
  'report': _report,
  'reference': _reference,
  'train-features': _train_features,
  'convert': _convert,
}


def run(args: argparse.Namespace) -> int:
  """Runs the command that the flags name, and returns the exit status."""
  if hasattr(args, 'stopped_status'):
    check_value('--stopped_status', args.stopped_status, ExitStatus)
  set_up_logging()
  if getattr(args, 'topology', None) is not None and not args.dry_run:
    raise InputError('--topology is for --dry_run.')
  if hasattr(args, 'coordinator'):
    cluster.join(args)
  with signals.end_on_sigterm(args.command):
    return RUNS[args.command](args) or 0
