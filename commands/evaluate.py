"""The command `evaluate`, which scores images against real images."""

import argparse
import itertools
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from absl import logging
from etils import epath

from commands.eval_settings import (
  check_without_data,
  eval_overrides,
  experiment_of,
)
from commands.presets import with_preset
from commands.sample_job import ImageJob, request_of
from core.errors import InputError, WriteError
from core.files import read_json, write_bytes, write_json
from core.processes import print_once, writing
from core.progress import image_progress
from core.ranges import Count, Range, check_value
from dit.sharding import make_mesh
from evaluate import tables
from evaluate.evaluator import (
  Evaluator,
  divide,
  open_evaluator,
  records_decoder,
)
from evaluate.image_sets import ImageSet, open_image_set
from evaluate.inputs import check_samples, protocol_beside
from evaluate.metrics import as_dict, name_of
from evaluate.real_images import RealData
from sample import nonfinite
from sample.labels import named
from train import workdir

WRITES = ('evaluation*.json', 'evaluation*.md')


def run(args: argparse.Namespace) -> None:
  """Runs `evaluate`."""
  guidance, overrides, row = with_preset(args)
  if args.samples is None:
    if args.config:
      raise InputError('--config is for --samples: a run has its own config.')
    text = evaluate_run(args, guidance or 'none', overrides, row)
  else:
    for name in ('guidance', 'labels', 'weights', 'step', 'guide'):
      if getattr(args, name) is not None:
        raise InputError(f'--{name} is for sampling, not for --samples.')
    text = evaluate_samples(args, row)
  print_once(text)


def evaluate_samples(args: argparse.Namespace, row: Mapping[str, Any]) -> str:
  """Scores the images of --samples; returns a table.

  `row` has published figures to compare with, or is {}. Raises InputError if an
  input is missing or does not fit.
  """
  experiment, samples = experiment_of(args), args.samples
  config = experiment.eval
  images = open_image_set(
    samples, experiment.data.dir, image_size=config.image_size or None
  )
  count = images.count // config.repeats if args.num is None else args.num
  parts = _parts(images, count, config.repeats)
  example = next(images.batches())  # unreadable images raise an error here
  protocol = protocol_beside(samples)
  check_samples(
    images,
    protocol,
    config.extractor,
    config.metrics,
    experiment.model.num_classes,
  )
  target = args.out or f'{samples.removesuffix(".npz").rstrip("/")}-evaluation'
  mesh = make_mesh(experiment.mesh)
  with writing(target, 'evaluation', 'evaluate', writes=WRITES) as folder:
    decoder = records_decoder(config, experiment.data, args.autoencoder, mesh)
    evaluator = open_evaluator(
      config,
      RealData(experiment.data, experiment.model.num_classes, decoder),
      mesh,
      labels=images.labels is not None,
      count=count,
      shape=example.shape[1:],
    )
    mask = parts >= 0
    with image_progress(images.count, 0, 'evaluate') as progress:

      def batches():
        end = 0
        for batch in images.batches():
          yield batch[mask[end : end + len(batch)]]
          end += len(batch)
          progress(end)

      labels = images.labels
      sets = evaluator.summarize(
        batches(), None if labels is None else labels[mask], parts[mask]
      )
    return _report(
      evaluator,
      sets,
      folder,
      {'samples': samples, 'images': int(mask.sum()), **protocol},
      count=count,
      eight_bit=images.eight_bit,
      row=row,
    )


def evaluate_run(
  args: argparse.Namespace,
  guidance: str,
  overrides: Sequence[str],
  row: Mapping[str, Any],
) -> str:
  """Samples and scores images, without saving the images; returns a table.

  `overrides` are config assignments of --preset. `row` has published figures to
  compare with, or is {}. Raises InputError if an input is missing or does not
  fit, and NonFiniteError if the share of non-finite images is above
  `nonfinite.MOST`.
  """
  request = request_of(args, [*overrides, *eval_overrides(args)])
  num = row.get('num', 50_000) if args.num is None else args.num
  labels = args.labels or row.get('labels', 'balanced')
  check_value('--num', num, Annotated[int, Range(2, 10**8)])
  config = request.source.open(request.overrides).eval
  if not request.source.is_run:
    check_without_data(config)
  total = num * config.repeats
  check_value('--num times eval.repeats', total, Count)
  job = ImageJob(
    request, guidance, num=total, labels=labels, preset=args.preset
  )
  experiment = job.experiment
  out = job.folder_in('evaluation')
  with writing(out, 'evaluation', 'evaluate', writes=WRITES) as folder:
    evaluator = open_evaluator(
      config,
      RealData(experiment.data, experiment.model.num_classes, job.decoder),
      job.mesh,
      labels=True,
      count=num,
      shape=job.image_shape,
    )
    protocol = job.load()
    sets, costs, begin, num_bad = [], [], time.monotonic(), 0
    with image_progress(total, 0, 'evaluate') as progress:

      def images(index):
        nonlocal num_bad
        for batch in job.batches(index):
          costs.append(batch.nfe)
          count = int(batch.index[-1]) + 1
          num_bad += int((~batch.finite).sum())
          nonfinite.check(num_bad, count, total, job.guidance)
          yield batch.images
          progress(count)  # by now, the extractor is compiled, too

      for repeat in range(config.repeats):
        index = np.arange(repeat * num, (repeat + 1) * num)
        sets += evaluator.summarize(images(index), job.labels[index])
    seconds = time.monotonic() - begin
    return _report(
      evaluator,
      sets,
      folder,
      {
        'run': request.source.place,
        **protocol,
        'nfe_per_image': job.nfe(costs),
        'solver_steps': job.steps,
        'nonfinite': num_bad,
        'images_per_second': total / seconds,
      },
      count=num,
      eight_bit=True,
      row=row,
    )


def _parts(images: ImageSet, size: int, repeats: int) -> np.ndarray:
  """Returns the index of each image's set; -1 for an image in no set."""
  if size < 2 or size * repeats > images.count:
    raise InputError(
      f'{images.name} holds {images.count} images, not {repeats} sets of '
      f'{max(size, 2)}; change --repeats, or --num, the size of each set.'
    )
  if rest := images.count - size * repeats:
    logging.warning('%d images, chosen at random, are left out.', rest)
  return divide(images.count, size, repeats)


def _report(
  evaluator: Evaluator,
  sets: Sequence[Any],
  folder: epath.Path,
  protocol: Mapping[str, Any],
  *,
  count: int,
  eight_bit: bool,
  row: Mapping[str, Any],
) -> str:
  """Computes and writes the metrics; returns a text with the metrics."""
  extractor, reference = evaluator.extractor, evaluator.reference
  estimates = evaluator(sets)
  warnings = tables.caveats(
    extractor=extractor,
    count=count,
    labels=protocol.get('labels'),
    eight_bit=eight_bit,
    reference=reference.about,
    row=row,
    bad=protocol.get('nonfinite', 0),
  )
  for warning in warnings:
    logging.warning('%s', warning)
  scoring = evaluator.protocol()
  line = tables.format_row(
    _columns(protocol, scoring, count), estimates, extractor
  )
  table = tables.format_table(estimates, extractor)
  entries = {
    'published': dict(row),
    'images_of_each_set': count,
    'samples': dict(protocol),
    'evaluation': scoring,
  }
  name = _free_name(folder, entries)
  values = {
    'metrics': as_dict(estimates),
    'names': {metric: name_of(metric, extractor) for metric in estimates},
    'warnings': warnings,
    **entries,
    'environment': workdir.environment(),
  }
  try:
    write_json(folder / f'{name}.json', values)
    write_bytes(folder / f'{name}.md', f'{line}\n'.encode())
  except WriteError:
    print(
      f'\n{table}\n{_summary(evaluator, count)}\n\n{line}'
    )  # otherwise, the figures would be lost
    raise
  published = ''
  if row:
    published = f'Published: FID {row["fid"]}, IS {row["inception_score"]}.\n'
  return (
    f'\n{table}\n{_summary(evaluator, count)}\n{published}'
    f'{folder}/{name}.json has the whole protocol, {name}.md a line for a '
    f'paper:\n\n{line}'
  )


def _free_name(folder: epath.Path, entries: dict[str, Any]) -> str:
  """Returns the first of evaluation, evaluation-2, ... free for `entries`."""
  entries = json.loads(json.dumps(entries))
  for number in itertools.count(1):
    name = 'evaluation' if number == 1 else f'evaluation-{number}'
    path = folder / f'{name}.json'
    if not path.exists():
      break
    try:
      record = read_json(path)
    except InputError:
      continue
    for samples in (record.get('samples', {}), entries['samples']):
      samples.pop('images_per_second', None)
    if all(record.get(key) == value for key, value in entries.items()):
      break
  return name


def _summary(evaluator: Evaluator, count: int) -> str:
  """Returns a sentence that describes how the figures were measured."""
  config, reference = evaluator.config, evaluator.reference
  source = config.reference or reference.about['images']
  real = f'{reference.count} images' if reference.count else 'statistics'
  preprocessing = ''
  if evaluator.extractor.is_inception:
    preprocessing = f' ({config.preprocessing} preprocessing)'
  error = ''
  if config.repeats > 1:
    error = f'; mean ± standard error of {config.repeats} disjoint sets'
  elif config.bootstrap:
    error = f'; ± standard error of {config.bootstrap} bootstrap resamples'
  return (
    f'{count} images against {real} of {source}, features of '
    f'{evaluator.extractor.name}{preprocessing}{error}.'
  )


def _columns(
  protocol: Mapping[str, Any], score: Mapping[str, Any], count: int
) -> dict[str, Any]:
  """Returns the table columns that describe the samples, for a paper."""
  sampling = protocol.get('sampling', {})
  nfe, plan = protocol.get('nfe_per_image'), protocol.get('labels')
  images = f'{score["repeats"]} x {count}' if score['repeats'] > 1 else count
  return {
    'model': pathlib.PurePath(
      str(
        protocol.get('run') or protocol.get('folder') or protocol.get('samples')
      )
    ).name,
    'weights': protocol.get('weights'),
    'guidance': protocol.get('guidance'),
    'solver': sampling.get('solver'),
    'steps': protocol.get('solver_steps', sampling.get('steps')),
    'NFE': None if nfe is None else f'{nfe:.4g}',
    'labels': plan and named(plan, protocol.get('classes') or {}),
    'images': images,
    'reference': pathlib.PurePath(str(score['reference']['place'])).name,
    'features': ', '.join(
      str(score['extractor'][key])
      for key in ('name', 'preprocessing')
      if key in score['extractor']
    ),
  }
