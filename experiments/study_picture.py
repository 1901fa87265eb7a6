"""Draws docs/images/garments.png, the samples of docs/results.md.

  python -m experiments.study_picture --data=data --out=runs/study

The picture shows photographs, then samples of each method at its published
scale, all from the same noise: the first image of each class. Below each
method is its change from no guidance; gray means no change. Images are enlarged
with a bicubic filter.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from evaluate.real_images import load_images
from experiments.study import Study
from experiments.study_plans import METHODS, teacher
from guidance import parse
from input_pipeline.sources import open_source
from sample import pictures

TARGET = pathlib.Path('docs/images/garments.png')
SHOWN = ('CFG', 'IG', 'IG + CFG')
_SIDE = 84  # side of an image in the picture, in pixels


def blocks(study: Study) -> Sequence[tuple[str, np.ndarray]]:
  """Returns the titles and images of the picture's rows."""
  data, count = study.experiment.data, study.experiment.model.num_classes
  source = open_source(data, data.test_split)
  real, labels = load_images(source, None, study.evaluator.mesh, 256)
  first = [int(np.flatnonzero(labels == label)[0]) for label in range(count)]
  job = study.open(teacher(0))
  sampler = job.make_sampler(job.restore()[0])

  def draw(text: str) -> np.ndarray:
    return sampler.images(parse(text), np.arange(count), 0).images

  base = draw('none')
  rows = [('photographs', real[first]), ('no guidance', base)]
  for method in METHODS:
    if method.name in SHOWN:
      images = draw(method.published)
      rows.append((method.name, images))
      rows.append(('change', pictures.change_from(images, base)))
  return rows


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', type=pathlib.Path, default='data')
  parser.add_argument('--out', type=pathlib.Path, default='runs/study')
  args = parser.parse_args()
  rows = blocks(Study(args.data, args.out, num=2000))
  shown = [(title, pictures.enlarge(images, _SIDE)) for title, images in rows]
  pictures.write_png(TARGET, pictures.sheet(shown, 10, scale=1))
