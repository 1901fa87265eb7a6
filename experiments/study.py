"""Measures guidance methods on Fashion-MNIST for docs/results.md.

  python -m experiments.study methods --data=data --out=runs/study

The argument names a plan in `experiments.study_plans`. A study trains the
networks that --out lacks, samples one row of its table after another, and adds
each row to experiments/results/STUDY.json. The same command resumes an
interrupted study: it keeps all rows of this file. `--seeds=1` restricts a study
to the network with seed 1. `python -m experiments.study_tables` then writes the
tables of docs/results.md.

A row has the Frechet distance to the training images in features of a
classifier (not FID), the share of images that the classifier assigns to their
labels (accuracy), precision, recall, and the effective CFG scale.
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

from commands.sample_job import SampleJob, SampleRequest
from core import program
from core.files import write_json
from evaluate.effective_scale import effective_scale
from evaluate.evaluator import EvalConfig, Evaluator, open_evaluator
from evaluate.metrics import as_dict
from evaluate.real_images import RealData
from evaluate.sweep import SweepGrid
from experiments.study_plans import (
  METHODS,
  PLANS,
  TUNING_IMAGES,
  TUNING_SEED,
  Row,
  Run,
  teacher,
)
from guidance import parse
from sample.generate import plan_labels
from train.runs import Source

RESULTS = pathlib.Path('experiments/results')
FLOOR = 'held-out photographs'
_METRICS = ('fd', 'accuracy', 'precision', 'recall')
_RESAMPLES = 50  # for the standard errors of fd and accuracy


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

  def tune(self, grid: str) -> str:
    """Returns the guidance with the lowest distance in a sweep."""
    name = grid.translate({ord(letter): '-' for letter in ':,.'})
    folder = self.out / 'tuning' / name
    _main(
      'sweep', f'--workdir={self.train(teacher(TUNING_SEED))}',
      f'--guidance={grid}', f'--num={TUNING_IMAGES}', f'--seed={TUNING_SEED}',
      f'--out={folder}', f'--config.data.dir={self.data}',
    )  # fmt: skip
    parsed = SweepGrid.of(grid)
    with open(folder / 'sweep.csv') as stream:
      (point,) = (p for p in csv.DictReader(stream) if p['mark'] == 'best')
    return parsed.text(tuple(float(point[name]) for name in parsed.names))

  def best_scales(self) -> dict[str, str]:
    """Returns the tuned guidance of each method, and stores it."""
    path = RESULTS / 'tuned.json'
    best = json.loads(path.read_text()) if path.exists() else {}
    for method in METHODS:
      if method.name not in best:
        best[method.name] = self.tune(method.grid)
        write_json(path, best)
    return best

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """Evaluator against the training images; all networks share it."""
    job = self.open(teacher(TUNING_SEED), ())
    config = EvalConfig(metrics=_METRICS, bootstrap=_RESAMPLES, batch_size=250)
    real = RealData(
      job.experiment.data, job.experiment.model.num_classes, decoder=None
    )
    return open_evaluator(
      config, real, job.mesh, labels=True, count=self.num,
      shape=job.experiment.model.latent_shape,
    )  # fmt: skip

  def open(self, run: Run, changes: Sequence[str]) -> SampleJob:
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
      'title': row.title,
      'run': row.run.name,
      'guidance': row.guidance,
      'seed': row.seed,
      'num': self.num,
      'steps': sampler.config.steps,
      'nfe': sample.nfe,
      **as_dict(self.evaluator.score(sample.images, labels)),
      **as_dict({'cfg_scale': scale} if scale else {}),
      'nonfinite': sample.nonfinite,
      'seconds': seconds,
      'weights_sha256': protocol['weights_sha256'],
      'commit': program.commit(),
    }

  def floor(self) -> dict[str, Any]:
    """Returns the figures of held-out photographs, as many as in a row."""
    images, labels = self.open(teacher(TUNING_SEED), ()).splits()[1]
    index = np.random.default_rng(0).permutation(len(images))[: self.num]
    scores = self.evaluator.score(images[index], labels[index])
    return {'title': FLOOR, 'seed': 0, 'num': self.num, **as_dict(scores)}


def _main(*words: str) -> None:
  """Runs a command of main.py in a process of its own."""
  subprocess.run([sys.executable, 'main.py', *words], check=True)


def main() -> None:
  """Measures the rows of a study that its file lacks."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('study', choices=PLANS)
  parser.add_argument('--data', type=pathlib.Path, default='data')
  parser.add_argument('--out', type=pathlib.Path, default='runs/study')
  parser.add_argument('--seeds', default='0,1,2', help='default: 0,1,2')
  parser.add_argument('--num', type=int, default=2000, help='images per row')
  args = parser.parse_args()
  study = Study(args.data, args.out, args.num)
  path = RESULTS / f'{args.study}.json'
  rows = json.loads(path.read_text()) if path.exists() else []
  done = {(row['title'], row['seed']) for row in rows}
  plan = PLANS[args.study](
    [int(seed) for seed in args.seeds.split(',')], study.best_scales()
  )
  if (FLOOR, 0) not in done:
    rows.append(study.floor())
  for row in plan:
    if (row.title, row.seed) in done:
      continue
    rows.append(study.measure(row))
    write_json(path, rows)
    print(f'{row.title}, seed {row.seed}: {rows[-1]}', flush=True)


if __name__ == '__main__':
  main()
