"""Draws docs/images/guidance.png, the main picture of the project.

  python -m experiments.study_picture --data=data --out=runs/study

The picture shows the network of seed 0 with each method at its published scale,
next to the distances of docs/results.md over all seeds.
"""

import argparse
import json
import pathlib

from dit.sharding import make_mesh
from evaluate.comparison_picture import (
  Strip,
  draw_comparison,
  first_of_each,
  method_strip,
  shown_classes,
)
from evaluate.real_images import load_images
from experiments.study import FLOOR, RESULTS, Study
from experiments.study_plans import METHODS, teacher
from experiments.study_tables import by_title, distance
from guidance import parse
from input_pipeline.sources import open_source
from sample import pictures
from sample.labels import class_name

TARGET = pathlib.Path('docs/images/guidance.png')
SHOWN = ('CFG', 'IG', 'S2', 'IG + CFG')


def draw(study: Study) -> tuple[list[Strip], list[str]]:
  """Returns the rows of the picture, and the names of the classes."""
  data, count = study.experiment.data, study.experiment.model.num_classes
  source = open_source(data, data.test_split)
  real, labels = load_images(
    source, None, make_mesh(study.experiment.mesh), 256
  )
  job = study.open(teacher(0))
  sampler = job.make_sampler(job.restore()[0])
  rows = by_title(json.loads((RESULTS / 'published.json').read_text()))
  strips = [
    Strip(
      'Photographs', 'Held out from training.',
      first_of_each(real, labels, count), distance(rows[FLOOR]), is_real=True,
    )
  ]  # fmt: skip
  scales = {method.name: method.published for method in METHODS}
  for title, text in [('none', 'none'), *((k, scales[k]) for k in SHOWN)]:
    sample = sampler.images(parse(text), shown_classes(count), 0)
    strips.append(
      method_strip(text, sample.nfe, sample.images, distance(rows[title]))
    )
  names = [
    class_name(int(k), job.latents.classes) for k in shown_classes(count)
  ]
  return strips, names


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', type=pathlib.Path, default='data')
  parser.add_argument('--out', type=pathlib.Path, default='runs/study')
  args = parser.parse_args()
  strips, names = draw(Study(args.data, args.out, num=2000))
  figure = draw_comparison(strips, names, 'Frechet distance in features')
  pictures.write_figure(TARGET, figure)
