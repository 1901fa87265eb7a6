"""The command `sample`, which samples images from a run or a weights folder."""

import argparse
import contextlib

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from commands import dry_run
from commands.presets import with_preset
from commands.sample_job import ImageJob, request_of
from core.errors import InputError, NonFiniteError
from core.processes import writing
from core.progress import image_progress
from dit.weights.files import fetch_folder
from sample import nonfinite
from sample.image_folder import WRITES, ImageFolder
from train import workdir
from train.config_file import load_config, override
from train.experiment import build
from train.runs import Source


def run(args: argparse.Namespace) -> None:
  """Runs `sample`."""
  guidance, overrides, row = with_preset(args)
  guidance = guidance or 'none'
  if args.dry_run:
    overrides = [*overrides, *args.overrides]
    if args.config:
      config = override(load_config(args.config), overrides).to_dict()
      experiment = build(config)
    else:
      experiment = Source.at(args.workdir or fetch_folder(args.folder)).open(
        overrides
      )
    print(dry_run.sample(experiment, guidance, args.topology))
    return
  if args.config:
    raise InputError('sample --config is for --dry_run: weights are needed.')
  job = ImageJob(
    request_of(args, overrides),
    guidance,
    num=row.get('num', 100) if args.num is None else args.num,
    labels=args.labels or row.get('labels', 'balanced'),
    preset=args.preset,
  )
  sample(job, args.format, overwrite=args.overwrite)


def sample(job: ImageJob, form: str, *, overwrite: bool) -> None:
  """Samples the images of a job, or resumes an interrupted job.

  `form` is one of `image_folder.FORMATS`. `overwrite` discards earlier images
  that were sampled with other settings. Raises NonFiniteError if no image is
  finite.
  """
  num = len(job.labels)
  # The lock comes first, to detect another writer before reading the weights.
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(
      writing(job.folder_in('samples'), 'samples', 'sample', writes=WRITES)
    )
    protocol = job.load()
    store = None
    if jax.process_index() == 0:  # only process 0 writes
      store = ImageFolder(
        folder, protocol, job.labels, form=form, overwrite=overwrite
      )
      stack.callback(store.close)
      if store.complete:
        logging.info('Already sampled: %d images in %s.', num, store.folder)
        nonfinite.warn(store.nonfinite, num)
    index, costs = _find_gaps(store, num), []
    count = num - len(index)
    if 0 < count < num:
      logging.info('%d of %d images exist already.', count, num)
    progress = stack.enter_context(image_progress(num, count))
    for batch in job.batches(index):
      count += len(batch.index)
      if store is not None:
        previous = store.nonfinite
        store.add(batch.index, batch.images, batch.finite)
        if store.nonfinite and not previous and count < num:
          nonfinite.warn(store.nonfinite, count, 'so far')
      costs.append(batch.nfe)
      progress(count)
    if store is None or store.complete:
      return
    if store.nonfinite == num:
      raise NonFiniteError(
        f'{nonfinite.describe(num, num)}; {folder} is left unfinished. Sample '
        'with --guidance=none to see whether the weights alone are finite.'
      )
    nonfinite.warn(store.nonfinite, num)
    nfe = job.nfe(costs)
    store.finish(
      {
        'classes': job.classes,
        'nfe_per_image': nfe,
        'skipped_blocks': job.skipped_blocks(),
        'solver_steps': job.steps,
        'batch_size': job.experiment.sample.batch_size,
        'autoencoder_files': job.autoencoder,
        **workdir.environment(),
      }
    )
  cost = 'NFE unknown' if nfe is None else f'NFE {nfe:.4g}'
  logging.info('%d images (%s, %s) in %s.', num, job.guidance, cost, folder)


def _find_gaps(store: ImageFolder | None, num: int) -> np.ndarray:
  """Returns the indices of the missing images, the same in every process."""
  mask = np.zeros(num, bool)
  if store is not None:
    mask[store.missing()] = True
  if jax.process_count() > 1:
    mask = multihost_utils.broadcast_one_to_all(mask)
  return np.flatnonzero(mask)
