"""The toy experiment of Internal Guidance: a fractal with two classes.

  python -m experiments.toy_fractal

Two trees of thin Gaussians, one per class, grow from the origin in opposite
directions, as in the toy of AutoGuidance (arXiv 2406.02507, figure 1) and of
Internal Guidance (arXiv 2512.24176). The constants are ours. See docs/toys.md.
"""

import numpy as np

from experiments import toy, toy_report

METHODS = {
  'IG': 'ig:{0}',
  'CFG': 'cfg:{0}',
  'IG + CFG': 'ig:{0},cfg:{0}',
  'AutoGuidance': 'auto:{0}',
}


def tree(levels: int = 5, pieces: int = 6) -> toy.Mixture:
  """Returns two trees with `levels` levels of branches.

  A branch at level k = 0, 1, ... is a row of `pieces` Gaussians, with a length
  of about 1.4 * 0.75^k and a half thickness of 0.08 * 0.75^k. Each Gaussian has
  weight length / 2^k, so the weight of a whole level decreases as 0.75^k. Two
  branches start at the end of each branch, turned by about 0.75^k radians.
  """
  rng = np.random.default_rng(1)  # lengths and angles vary by 20 %
  weight, mean, factor, label = [], [], [], []
  for c, turns in enumerate((0.125, 0.625)):
    branches = [(np.zeros(2), 2 * np.pi * turns)]
    for level in range(levels):
      tips = []
      for start, angle in branches:
        shrink = 0.75**level
        length = 1.4 * shrink * (1 + 0.2 * rng.standard_normal())
        axis = np.asarray([np.cos(angle), np.sin(angle)])
        normal = np.asarray([-axis[1], axis[0]])
        axes = [axis * length / pieces / 2, normal * 0.08 * shrink]
        for k in range(pieces):
          weight.append(length / 2**level)
          mean.append(start + axis * length * (k + 0.5) / pieces)
          factor.append(np.stack(axes, axis=1))
          label.append(c)
        for sign in (-1, 1):
          turn = sign * shrink * (1 + 0.2 * rng.standard_normal())
          tips.append((start + axis * length, angle + turn))
      branches = tips
  return toy.Mixture(*map(np.asarray, (weight, mean, factor, label)))


def experiment() -> toy.Experiment:
  """Returns the experiment."""
  return toy.Experiment(
    name='toy_fractal',
    mixture=tree(),
    unit=1.45,
    network=toy.Recipe(
      depth=4, width=64, steps=3000, batch_size=1024, taps=(1,)
    ),
    guide=toy.Recipe(depth=4, width=16, steps=750, batch_size=1024),
    methods=METHODS,
    fixed=2.0,
  )


if __name__ == '__main__':
  toy_report.main(experiment())
