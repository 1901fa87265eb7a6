"""The command `sweep`: a metric over guidance scales.

Everything that can be checked is checked before weights are read.
"""

import argparse
import dataclasses
from typing import Annotated

from commands.eval_settings import eval_overrides
from commands.sample_job import SampleJob, SampleRequest, request_of
from core.errors import InputError, check_choice
from core.processes import writing
from core.ranges import Range, check_value
from evaluate import sweep as sweep_lib
from evaluate.evaluator import open_evaluator
from evaluate.metrics import METRICS

_RESAMPLES = 50  # behind each standard error, if the features cost little


def run(args: argparse.Namespace) -> None:
  """Runs `sweep`."""
  table = sweep(
    request_of(args, eval_overrides(args)),
    args.guidance,
    metric=args.metric,
    num=args.num,
    overwrite=args.overwrite,
  )
  print(table, end='')


def sweep(
  request: SampleRequest,
  guidance: str,
  *,
  metric: str,
  num: int,
  overwrite: bool,
) -> str:
  """Writes a table and a picture of a metric over scales; returns the table.

  Args:
    request: what to draw from, and the folder of the results.
    guidance: guidance as text, with one or two scales LOW..HIGH:COUNT.
    metric: Metric for the picture and the marks, one of `metrics.METRICS`.
    num: number of images for each point.
    overwrite: whether points of another protocol in the folder are discarded.
  """
  grid = sweep_lib.SweepGrid.of(guidance)
  check_choice('--metric', metric, METRICS)
  check_value('--num', num, Annotated[int, Range(2, 10**8)])
  job = SampleJob(request)
  job.check(grid.texts())
  experiment = job.experiment
  job.check_weights()
  decoder = job.decoder
  config = experiment.eval
  classes = config.extractor.startswith('classifier')
  usual = ('fd', 'accuracy') if classes else ('fd',)
  wanted = config.metrics or tuple(dict.fromkeys((metric, *usual)))
  if metric not in wanted:
    raise InputError(f'--metric is {metric}, which eval.metrics does not hold.')
  if classes and not config.bootstrap:  # costs little
    config = dataclasses.replace(config, bootstrap=_RESAMPLES)
  place = request.out or f'{request.source.place}/sweep'
  with writing(place, 'sweep', 'sweep', writes=sweep_lib.WRITES) as folder:
    evaluator = open_evaluator(
      dataclasses.replace(config, metrics=wanted),
      experiment.data,
      experiment.model.num_classes,
      job.mesh,
      labels=True,
      count=num // config.repeats,
      shape=None if decoder else experiment.model.latent_shape,
      decoder=decoder,
    )
    denoiser, guide, protocol = job.restore()
    if decoder is not None:
      protocol['autoencoder'] = job.about_decoder()
    return sweep_lib.sweep(
      job.make_sampler(denoiser, decoder),
      sweep_lib.SweepConfig(grid, metric, num, request.seed, overwrite),
      evaluator,
      protocol=protocol,
      folder=folder,
      guide=guide,
    )
