"""The commands `sample`, `compare` and `sweep`: from weights to results.

Each checks everything that it can before it reads weights, then draws.
"""

import contextlib
import dataclasses
from typing import Annotated, Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from commands.sample_job import PRESETS, Drawing, Opened, Request
from core.errors import InputError, NonFiniteError, check_choice
from core.processes import writing
from core.progress import image_progress
from core.ranges import Range, check_value
from evaluate import classifier
from evaluate import compare as compare_lib
from evaluate import sweep as sweep_lib
from evaluate.evaluator import Evaluator
from evaluate.metrics import METRICS, as_dict, name_of
from sample import nonfinite
from sample.output import WRITES, Store
from train import workdir
from train.config_file import load_config


def preset(name: str) -> tuple[str, list[str], dict[str, Any]]:
  """Returns published settings, and the row that was published with them.

  Returns:
    Guidance; assignments to the network's precision and to all keys of sampling
    but the batch size; and FID, Inception Score, labels, number of images,
    autoencoder and decoder of the published row.

  Raises:
    InputError: For an unknown name; the message names the known ones.
  """
  presets = load_config(PRESETS)
  check_choice('--preset', name, presets)
  row = presets[name].to_dict()
  guidance, dtype = row.pop('guidance'), row.pop('dtype')
  sampling = load_config('configs/base.py').sample.to_dict() | row.pop('sample')
  del sampling['batch_size']
  assignments = [f'sample.{k}={v}' for k, v in sampling.items()]
  return guidance, [f'model.dtype={dtype}', *assignments], row


def sample(
  request: Request,
  guidance: str,
  *,
  num: int,
  labels: str = 'balanced',
  form: str = 'npz',
  overwrite: bool = False,
  preset: str | None = None,
) -> None:
  """Draws images into a folder; goes on where it was interrupted.

  Args:
    request: what to draw from, and the folder of the results.
    guidance: guidance as text.
    num: number of images.
    labels: plan of their labels; see `generate.plan_labels`.
    form: one of `output.FORMATS`.
    overwrite: whether images of another protocol in the folder are discarded.
    preset: Name of the published settings in use, whose cost is announced.

  Raises:
    NonFiniteError: if all images have values that are not finite.
  """
  drawing = Drawing(request, guidance, num=num, labels=labels)
  if preset is not None:
    drawing.announce(preset)
  name = drawing.guidance.replace(':', '-').replace(',', '_')
  out = request.out or f'{request.source.place}/samples/{name}'
  # The lock is taken before weights are read.
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(
      writing(out, 'samples', 'sample', writes=WRITES)
    )
    protocol = drawing.load()
    store = None
    if jax.process_index() == 0:  # which writes, and tells the others
      store = Store(
        folder, protocol, drawing.labels, form=form, overwrite=overwrite
      )
      stack.callback(store.close)
      if store.complete:
        logging.info('Already drawn: %d images in %s.', num, store.folder)
        nonfinite.warn(store.nonfinite, num)
    missing, spent = _missing(store, num), []
    done = num - len(missing)
    if 0 < done < num:
      logging.info('%d of %d images are there.', done, num)
    progress = stack.enter_context(image_progress(num, done))
    for batch in drawing.batches(missing):
      done += len(batch.index)
      if store is not None:
        before = store.nonfinite
        store.add(batch.index, batch.images, batch.finite)
        if store.nonfinite and not before and done < num:
          nonfinite.warn(store.nonfinite, done, 'so far')
      spent.append(batch.nfe)
      progress(done)
    if store is None or store.complete:
      return
    if store.nonfinite == num:
      raise NonFiniteError(
        f'{nonfinite.describe(num, num)}; {folder} is left unfinished. Draw '
        'with --guidance=none to see whether the weights alone are finite.'
      )
    nonfinite.warn(store.nonfinite, num)
    nfe = drawing.nfe(spent)
    store.finish(
      {
        'classes': drawing.classes,
        'nfe_per_image': nfe,
        'skipped_blocks': drawing.skipped_blocks(),
        'solver_steps': drawing.steps,
        'batch_size': drawing.experiment.sample.batch_size,
        'autoencoder_files': drawing.autoencoder,
        **workdir.environment(),
      }
    )
  cost = 'NFE unknown' if nfe is None else f'NFE {nfe:.4g}'
  logging.info(
    '%d images (%s, %s) in %s.',
    num, drawing.guidance, cost, folder,
  )  # fmt: skip


def _missing(store: Store | None, num: int) -> np.ndarray:
  """Numbers of the images to draw, the same in every process."""
  mask = np.zeros(num, bool)
  if store is not None:
    mask[store.missing()] = True
  if jax.process_count() > 1:
    mask = multihost_utils.broadcast_one_to_all(mask)
  return np.flatnonzero(mask)


def compare(request: Request) -> str:
  """Guidance methods side by side; returns the table and how to read it."""
  opened = Opened(request)
  experiment = opened.experiment
  opened.check(experiment.compare.texts())
  opened.check_weights()
  splits = opened.splits()
  kind, _, trained_before = experiment.eval.extractor.partition(':')
  network = None
  if kind != 'classifier':
    logging.warning(
      'compare measures in features of a classifier, not in eval.extractor=%s; '
      'see evaluate and sweep.', experiment.eval.extractor,
    )  # fmt: skip
  elif trained_before:
    network, _ = classifier.load(trained_before)
  place = request.out or request.source.place
  with writing(
    place, 'comparison', 'compare', writes=compare_lib.WRITES
  ) as out:
    denoiser, guide, protocol = opened.restore()
    if opened.decoder is not None:
      protocol['autoencoder'] = opened.about_decoder()
    table = compare_lib.compare(
      denoiser,
      experiment.compare,
      experiment.sample,
      path=opened.path,
      shape=experiment.model.latent_shape,
      mesh=opened.mesh,
      seed=request.seed,
      reference=splits[0],
      held_out=splits[1] if len(splits) > 1 else None,
      protocol=protocol,
      folder=out,
      guide=guide,
      classifier=network,
      autoencoder=opened.decoder,
    )
  return (
    f'\n{table}\n'
    f'Frechet distances to {len(splits[0][0])} real images of '
    f'{experiment.data.name}{_decoded(opened)} ± bootstrap standard error, '
    f'{experiment.compare.num} images per method; features of a classifier '
    'trained on those images (not FID).\n'
    '"gain" is the fall of a distance against the first row, in standard '
    'errors of the difference: not above 2 means no help that shows here, '
    'negative means harm.\n'
    f'Pictures: {out}/samples.png, {out}/guidance.png, '
    f'{request.source.place}/loss.png'
  )


def _decoded(opened: Opened) -> str:
  """Returns the remark on real images that are reconstructions."""
  if opened.decoder is None:
    return ''
  name = (opened.autoencoder or '').partition(':')[0]
  return (
    f', as {name} reconstructs them (what the autoencoder itself loses is in '
    'no distance),'
  )


def sweep(
  request: Request, guidance: str, *, metric: str, num: int, overwrite: bool
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
  opened = Opened(request)
  opened.check(grid.texts())
  experiment = opened.experiment
  opened.check_weights()
  decoder = opened.decoder
  config = experiment.eval
  classes = config.extractor.startswith('classifier')
  usual = ('fd', 'accuracy') if classes else ('fd',)
  wanted = config.metrics or tuple(dict.fromkeys((metric, *usual)))
  if metric not in wanted:
    raise InputError(f'--metric is {metric}, which eval.metrics does not hold.')
  if classes and not config.bootstrap:  # costs little
    config = dataclasses.replace(config, bootstrap=experiment.compare.resamples)
  place = request.out or f'{request.source.place}/sweep'
  with writing(place, 'sweep', 'sweep', writes=sweep_lib.WRITES) as folder:
    evaluator = Evaluator(
      dataclasses.replace(config, metrics=wanted),
      experiment.data,
      experiment.model.num_classes,
      opened.mesh,
      labels=True,
      count=num // config.repeats,
      shape=None if decoder else experiment.model.latent_shape,
      decoder=decoder,
    )
    denoiser, guide, protocol = opened.restore()
    if decoder is not None:
      protocol['autoencoder'] = opened.about_decoder()
    return sweep_lib.sweep(
      denoiser,
      grid,
      experiment.sample,
      metric=metric,
      num=num,
      path=opened.path,
      shape=experiment.model.latent_shape,
      mesh=opened.mesh,
      seed=request.seed,
      score=lambda images, labels: as_dict(evaluator.score(images, labels)),
      metric_name=name_of(metric, evaluator.extractor),
      protocol={**protocol, 'evaluation': evaluator.protocol()},
      folder=folder,
      guide=guide,
      autoencoder=decoder,
      overwrite=overwrite,
    )
