"""Measures guidance methods on Fashion-MNIST for docs/results.md.

  python -m experiments.study published --data=data --out=runs/study

The argument names a plan in `experiments.study_plans`. A study trains the
networks that --out lacks, samples one row of its table after another, and adds
each row to experiments/results/STUDY.json. The same command resumes an
interrupted study: it keeps all rows of this file. `--seeds=1` restricts a study
to the network with seed 1. `python -m experiments.study_tables` then writes the
tables of docs/results.md.

A row has the Frechet distance to the training images in features of a
classifier (not FID), the share of images that the classifier assigns to their
labels (accuracy), precision, recall, and the effective CFG scale. Scales are
tuned on a network with another seed, which is in no table.
"""

import argparse
import csv
import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from commands.sample_job import SampleJob, SampleRequest
from core import program
from core.errors import InputError
from core.files import write_json
from dit.sharding import make_mesh
from evaluate.effective_scale import effective_scale
from evaluate.evaluator import EvalConfig, Evaluator, open_evaluator
from evaluate.metrics import as_dict
from evaluate.real_images import RealData, load_images
from evaluate.sweep import SweepConfig, SweepGrid, sweep
from evaluate.ties import MARK
from experiments.study_plans import (
  CONFIG,
  METHODS,
  PLANS,
  TUNING_IMAGES,
  TUNING_SEED,
  Row,
  Run,
  teacher,
)
from guidance import parse
from input_pipeline.sources import open_source
from sample.generate import plan_labels
from train.config_file import load_config, override
from train.experiment import Experiment, build
from train.runs import Source

RESULTS = pathlib.Path('experiments/results')
FLOOR = 'held-out photographs'
_METRICS = ('fd', 'accuracy', 'precision', 'recall')
_RESAMPLES = 50  # for the standard errors of fd and accuracy
_BATCH = 256  # real images per batch


@dataclasses.dataclass(frozen=True)
class Study:
  """Settings of a study.

  Attributes:
    data: Folder of the prepared data.
    out: Folder of the networks.
    num: Number of images per row.
  """

  data: pathlib.Path
  out: pathlib.Path
  num: int

  def train(self, run: Run) -> pathlib.Path:
    """Trains a network unless it exists; returns its folder."""
    for other in run.needs:
      self.train(other)
    done = self.out / f'{run.name}.done'
    if not done.exists():
      for words in run.commands:
        _main(*(word.format(out=self.out, data=self.data) for word in words))
      done.touch()
    return self.out / run.name / run.result

  def tune(self, text: str) -> str:
    """Returns the guidance with the lowest distance in a sweep."""
    grid = SweepGrid.of(text)
    job = self.open(teacher(TUNING_SEED))
    denoiser, _, protocol = job.restore()
    folder = self.out / 'sweeps' / '_'.join(grid.names)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(
      job.make_sampler(denoiser),
      SweepConfig(grid, 'fd', TUNING_IMAGES, TUNING_SEED),
      self.evaluator,
      protocol=protocol,
      folder=folder,
    )
    with open(folder / 'sweep.csv') as stream:
      (best,) = (row for row in csv.DictReader(stream) if row[MARK] == 'best')
    point = tuple(float(best[name]) for name in grid.names)
    for scale, scales in zip(point, grid.scales, strict=True):
      if scale in (scales[0], scales[-1]):
        logging.warning('The best point of %s is at an end of its range.', text)
    return grid.text(point)

  def best(self, name: str) -> str:
    """Returns the tuned guidance of a method; tunes and stores it once."""
    path = RESULTS / 'tuned_scales.json'
    known = json.loads(path.read_text()) if path.exists() else {}
    if name not in known:
      RESULTS.mkdir(exist_ok=True)
      (grid,) = (method.grid for method in METHODS if method.name == name)
      known[name] = self.tune(grid)
      write_json(path, known)
    return known[name]

  @functools.cached_property
  def experiment(self) -> Experiment:
    """Settings of the unchanged recipe."""
    config = override(load_config(CONFIG), [f'data.dir={self.data}'])
    return build(config.to_dict())

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """Evaluator against the training images; all networks share it."""
    data, model = self.experiment.data, self.experiment.model
    return open_evaluator(
      EvalConfig(metrics=_METRICS, bootstrap=_RESAMPLES, batch_size=_BATCH),
      RealData(data, model.num_classes, decoder=None),
      make_mesh(self.experiment.mesh),
      labels=True,
      count=self.num,
      shape=model.latent_shape,
    )

  def open(self, run: Run, changes: Sequence[str] = ()) -> SampleJob:
    """Trains a network unless it exists, and opens it for sampling."""
    source = Source.at(str(self.train(run)))
    keys = [f'data.dir={self.data}'] if source.is_run else []
    return SampleJob(SampleRequest(source, [*keys, *changes]))

  def measure(self, row: Row) -> dict[str, Any]:
    """Samples a row and returns its figures."""
    job = self.open(row.run, row.changes)
    job.check([row.guidance])
    denoiser, _, protocol = job.restore()
    sampler = job.make_sampler(denoiser)
    labels = plan_labels('balanced', self.num, denoiser.num_classes, row.seed)
    guidance = parse(row.guidance)
    begin = time.monotonic()
    sample = sampler.images(guidance, labels, row.seed)
    seconds = time.monotonic() - begin
    scale = effective_scale(sampler, guidance, labels, row.seed)
    return {
      **settings_of(row, self.num),
      'steps': sampler.config.steps,
      'nfe': sample.nfe,
      **as_dict(self.evaluator.score(sample.images, labels)),
      **as_dict({'cfg_scale': scale} if scale else {}),
      'nonfinite': sample.nonfinite,
      'seconds': seconds,
      'weights_sha256': protocol['weights_sha256'],
      'commit': program.commit(),
      'uncommitted_changes': _has_changes(),
    }

  def floor(self) -> dict[str, Any]:
    """Returns the figures of held-out photographs, as many as in a row."""
    source = open_source(self.experiment.data, self.experiment.data.test_split)
    images, labels = load_images(source, None, self.evaluator.mesh, _BATCH)
    index = np.random.default_rng(0).permutation(len(images))[: self.num]
    scores = self.evaluator.score(images[index], labels[index])
    return {'title': FLOOR, 'seed': 0, 'num': self.num, **as_dict(scores)}


def settings_of(row: Row, num: int) -> dict[str, Any]:
  """Returns the settings that a stored row must share with its plan."""
  return {
    'title': row.title,
    'run': row.run.name,
    'guidance': row.guidance,
    'seed': row.seed,
    'changes': list(row.changes),
    'num': num,
  }


def missing(
  plan: Sequence[Row], rows: Sequence[dict[str, Any]], num: int
) -> list[Row]:
  """Returns the rows of a plan that a file lacks.

  Raises InputError if the file has a row of the same title and seed with other
  settings.
  """
  known = {(row['title'], row['seed']): row for row in rows}
  result = []
  for row in plan:
    stored, wanted = known.get((row.title, row.seed)), settings_of(row, num)
    if stored is None:
      result.append(row)
    elif changes := [k for k in wanted if stored.get(k) != wanted[k]]:
      raise InputError(
        f'row {row.title}, seed {row.seed}, was measured with other '
        f'{", ".join(changes)}; remove it from the file to measure it again.'
      )
  return result


def _has_changes() -> bool:
  """Returns whether files that git tracks differ from the commit."""
  words = ['git', 'status', '--porcelain', '--untracked-files=no']
  run = subprocess.run(words, capture_output=True, text=True, check=False)
  lines = [line for line in run.stdout.splitlines() if str(RESULTS) not in line]
  return bool(lines)


def _main(*words: str) -> None:
  """Runs a command of main.py in a process of its own."""
  subprocess.run([sys.executable, 'main.py', *words], check=True)


def main(argv: Sequence[str] | None = None) -> None:
  """Measures the rows of a study that its file lacks."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('study', choices=PLANS)
  parser.add_argument('--data', type=pathlib.Path, default='data')
  parser.add_argument('--out', type=pathlib.Path, default='runs/study')
  parser.add_argument('--seeds', default='0,1,3', help='default: 0,1,3')
  parser.add_argument('--num', type=int, default=2000, help='images per row')
  args = parser.parse_args(argv)
  seeds = [int(seed) for seed in args.seeds.split(',')]
  if TUNING_SEED in seeds:
    parser.error(f'seed {TUNING_SEED} tunes the scales, so no table may use it')
  study = Study(args.data, args.out, args.num)
  path = RESULTS / f'{args.study}.json'
  rows = json.loads(path.read_text()) if path.exists() else []
  RESULTS.mkdir(exist_ok=True)
  if FLOOR not in [row['title'] for row in rows]:
    rows.append(study.floor())
    write_json(path, rows)
  for row in missing(PLANS[args.study](seeds, study.best), rows, args.num):
    rows.append(study.measure(row))
    write_json(path, rows)
    print(f'{row.title}, seed {row.seed}: {rows[-1]}', flush=True)


if __name__ == '__main__':
  main()
