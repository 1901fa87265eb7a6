"""The command `sweep`, which measures a metric over guidance scales."""

import argparse
import dataclasses
from typing import Annotated

from commands.eval_settings import eval_overrides
from commands.sample_job import SampleJob, request_of
from core.errors import InputError, check_choice
from core.processes import writing
from core.ranges import Range, check_value
from evaluate.evaluator import open_evaluator
from evaluate.metrics import METRICS
from evaluate.real_images import RealData
from evaluate.sweep import WRITES, SweepConfig, SweepGrid, sweep

_RESAMPLES = 50  # default number of resamples for features of a classifier


def run(args: argparse.Namespace) -> None:
  """Runs `sweep`."""
  grid, metric, num = SweepGrid.of(args.guidance), args.metric, args.num
  check_choice('--metric', metric, METRICS)
  check_value('--num', num, Annotated[int, Range(2, 10**8)])
  request = request_of(args, eval_overrides(args))
  job = SampleJob(request)
  job.check(grid.texts())
  experiment = job.experiment
  job.check_weights()
  decoder = job.decoder
  config = experiment.eval
  classes = config.extractor.startswith('classifier')
  defaults = ('fd', 'accuracy') if classes else ('fd',)
  metrics = config.metrics or tuple(dict.fromkeys((metric, *defaults)))
  if metric not in metrics:
    raise InputError(f'--metric is {metric}, which eval.metrics does not list.')
  if classes and not config.bootstrap:  # resampling such features is fast
    config = dataclasses.replace(config, bootstrap=_RESAMPLES)
  path = request.out or f'{request.source.place}/sweep'
  with writing(path, 'sweep', 'sweep', writes=WRITES) as folder:
    evaluator = open_evaluator(
      dataclasses.replace(config, metrics=metrics),
      RealData(experiment.data, experiment.model.num_classes, decoder),
      job.mesh,
      labels=True,
      count=num // config.repeats,
      shape=None if decoder else experiment.model.latent_shape,
    )
    denoiser, guide, protocol = job.restore()
    if decoder is not None:
      protocol['autoencoder'] = job.about_decoder()
    table = sweep(
      job.make_sampler(denoiser, decoder),
      SweepConfig(grid, metric, num, request.seed, args.overwrite),
      evaluator,
      protocol=protocol,
      folder=folder,
      guide=guide,
    )
  print(table, end='')
