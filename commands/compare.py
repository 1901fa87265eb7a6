"""The command `compare`, which compares guidance methods side by side."""

import argparse
import functools

from absl import logging

from commands.flags.compare import METHODS
from commands.sample_job import SampleJob, request_of
from core.errors import InputError
from core.processes import writing
from evaluate import classifier
from evaluate import compare as compare_lib
from evaluate.classifier_cache import trained_once


def run(args: argparse.Namespace) -> None:
  """Runs `compare`."""
  overrides = [f'eval.extractor={args.extractor}'] if args.extractor else []
  request = request_of(args, overrides)
  job = SampleJob(request)
  config = compare_settings(args, job)
  experiment = job.experiment
  job.check(config.methods)
  if config.match_cfg and not experiment.model.null_label:
    raise InputError(
      '--match_cfg needs a network with a null label; leave it out.'
    )
  job.check_weights()
  splits = job.splits()
  kind, _, folder = experiment.eval.extractor.partition(':')
  network = None
  if kind != 'classifier':
    logging.warning(
      'compare uses features of a classifier, not the extractor %s; use '
      'evaluate or sweep for it.', experiment.eval.extractor,
    )  # fmt: skip
  elif folder:
    network, _ = classifier.load(folder)
  target = request.out or request.source.place
  with writing(
    target, 'comparison', 'compare', writes=compare_lib.WRITES
  ) as out:
    denoiser, guide, protocol = job.restore()
    if job.decoder is not None:
      protocol['autoencoder'] = job.about_decoder()
    table = compare_lib.compare(
      job.make_sampler(denoiser, job.decoder),
      config,
      splits,
      seed=request.seed,
      protocol=protocol,
      folder=out,
      guide=guide,
      classifier=network,
      train=functools.partial(
        trained_once,
        data_dir=experiment.data.dir,
        name=experiment.data.name,
        flip=experiment.data.flip,
      ),
      names=job.latents.classes,
    )
  print(
    f'\n{table}\n'
    f'Frechet distances to {len(splits[0][0])} real images of '
    f'{experiment.data.name}{_remark(job)} ± bootstrap standard error, '
    f'{config.num} images per method; features of a classifier '
    'trained on those images (not FID).\n'
    '"gain" is the decrease of a distance from the first row, in standard '
    'errors of the difference. A gain of at most 2 is no significant '
    'improvement, and a negative gain is a deterioration.\n'
    f'{_scale_note(job)}\n'
    f'Pictures: {out}/samples.png, {request.source.place}/loss.png'
  )
  others = [text for text in METHODS if text not in config.methods]
  if others and args.guidance is None:
    logging.info('Not supported here: %s.', '; '.join(others))


def compare_settings(
  args: argparse.Namespace, job: SampleJob
) -> compare_lib.CompareConfig:
  """Returns the settings; by default, with all supported METHODS."""
  methods = args.guidance
  if methods is None:
    methods = filter(job.serves, METHODS)
  return compare_lib.CompareConfig(
    num=args.num,
    methods=tuple(methods),
    resamples=args.bootstrap,
    match_cfg=args.match_cfg,
  )


def _scale_note(job: SampleJob) -> str:
  """Explains the column of effective scales, or why the column is empty."""
  if not job.experiment.model.null_label:
    return (
      '"CFG scale" is empty: the network has no null label, so the effective '
      'scale is undefined.'
    )
  return (
    '"CFG scale" is the effective scale: the scale at which CFG moves the '
    'velocity equally far along its own direction.'
  )


def _remark(job: SampleJob) -> str:
  """Returns a remark that the real images are reconstructions, or ''."""
  if job.decoder is None:
    return ''
  name = (job.autoencoder or '').partition(':')[0]
  return (
    f', reconstructed by {name} (the error of the autoencoder is in no '
    'distance),'
  )
