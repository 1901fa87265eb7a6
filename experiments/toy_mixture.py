"""The toy experiment of S2-Guidance (arXiv 2508.12880, section 4).

  python -m experiments.toy_mixture

The four classes are isotropic Gaussians at (+-4, +-4). Their standard deviation
is 1, since the paper gives no value. See docs/toys.md.
"""

import numpy as np

from experiments import toy, toy_report

METHODS = {
  'CFG': 'cfg:{0}',
  'AutoGuidance': 'auto:{0}',
  'S2': 's2:{0}:skip=1',
  'S2, 4 masks': 's2:{0}:skip=1:masks=4',
  'CFG + S2': 'cfg:{0},s2:{0}:skip=1',
}


def four_gaussians() -> toy.Mixture:
  """Returns data with one class at each corner of a square of side 8."""
  corners = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
  return toy.Mixture(
    weight=np.ones(4),
    mean=4.0 * np.asarray(corners),
    factor=np.tile(np.eye(2), (4, 1, 1)),
    label=np.arange(4),
  )


def experiment() -> toy.Experiment:
  """Returns the experiment."""
  return toy.Experiment(
    name='toy_mixture',
    mixture=four_gaussians(),
    unit=4.0,
    network=toy.Recipe(depth=8, width=32, steps=400, batch_size=256),
    guide=toy.Recipe(depth=4, width=16, steps=200, batch_size=256),
    methods=METHODS,
    fixed=1.5,
  )


if __name__ == '__main__':
  toy_report.main(experiment())
