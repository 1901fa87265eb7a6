"""Distills few-step students in the plane, where the target is known.

  python -m experiments.toy_distill

The data has two overlapping classes of three Gaussians each. The teacher is
trained as in the other toys. The target consists of the teacher's samples with
many steps. Students use the objective and training step of distill/ (see
docs/toys.md):

  DM         without guidance: the student should match the teacher
  CA only    with guidance: Decoupled DMD (arXiv 2511.22677) reports
             over-saturation, rising variance and collapse
  CA + DM    with guidance: one student for each noise schedule of Decoupled DMD
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from core import charts, markdown
from core.nested import with_tuples
from distill import step as step_lib
from distill.config import SCHEDULES, DistillConfig
from distill.objective import Distillation
from dit import backbone
from dit.base import BoundNetwork
from dit.path import Linear
from dit.sharding import MeshConfig, make_mesh
from experiments import toy
from experiments.toy_report import (
  cell,
  cloud,
  command_line,
  energy_distance,
)
from sample.grid import make_grid
from sample.solvers import Euler, Renoise
from train.config_file import load_config
from train.ema import EMAConfig

GUIDANCE = 'cfg:3'  # the teacher's guidance for all guided students
MEASURES = ('energy', 'guided', 'outward', 'spread', 'total')
_DRAWN = {
  'energy': 'energy distance to the teacher',
  'spread': 'variance within a class / teacher',
  'total': 'variance of all points / teacher',
}
# Seeds of samples: for the target, for the teacher's other samples with many
# steps (whose distance to the target is the floor), and for the rest.
_TRUTH_SEED, _FLOOR_SEED, _SEED = 100, 200, 1


@dataclasses.dataclass(frozen=True)
class Students:
  """Students and their training settings.

  Attributes:
    settings: Number of steps, and changed keys of section `distill`, by name.
    seeds: Number of seeds per student, all with the same teacher.
    marks: Numbers of student updates after which samples are measured, in
      ascending order; training ends after the last number.
    batch_size: Batch size of every update.
    lr: Initial learning rate of the student, with cosine decay.
    fake_lr: Initial learning rate of the fake denoiser, with cosine decay.
    decay: Decay per update of the EMA weights with which the student samples.
  """

  settings: Mapping[str, tuple[int, dict[str, str]]]
  seeds: int = 3
  marks: tuple[int, ...] = (0, 10, 25, 50, 100, 150, 200, 300, 400)
  batch_size: int = 256
  lr: float = 5e-4
  fake_lr: float = 2e-3
  decay: float = 0.98


def students(*names: str, **changes: Any) -> Students:
  """Returns the students `names` (default: all); `changes` set other fields."""
  settings = {
    'DM, 1 step': (1, {'guidance': 'none'}),
    'DM, 4 steps': (4, {'guidance': 'none'}),
    'CA only': (4, {'guidance': GUIDANCE, 'regularizer': 'none'}),
    **{
      name: (4, {'guidance': GUIDANCE, 'schedule': name}) for name in SCHEDULES
    },
  }
  return Students({n: settings[n] for n in names or settings}, **changes)


def side_by_side() -> toy.Mixture:
  """Returns two overlapping classes shaped like arrow heads, left and right."""
  places = np.asarray([(2.0, 0.0), (0.6, 1.8), (0.6, -1.8)])
  return toy.Mixture(
    weight=np.ones(6),
    mean=np.concatenate([places * (-1, 1), places]),
    factor=np.tile(0.5 * np.eye(2), (6, 1, 1)),
    label=np.repeat([0, 1], 3),
  )


def experiment() -> toy.Experiment:
  """Returns the data and the recipe of the teacher."""
  recipe = toy.Recipe(depth=3, width=32, steps=2000, batch_size=256)
  return toy.Experiment(
    name='toy_distill',
    mixture=side_by_side(),
    unit=2.0,
    network=recipe,
    guide=recipe,
    methods={},
    fixed=1.0,
    networks=1,
    solver_steps=64,
  )


class Judge:
  """Compares points with samples (n, 2) of the unguided and guided teacher."""

  def __init__(self, truth: np.ndarray, guided: np.ndarray) -> None:
    self.truth, self.guided = truth, guided

  def __call__(self, x: np.ndarray) -> np.ndarray:
    """Measures x (n, 2), where classes alternate; returns MEASURES, (5,).

    `energy` is the energy distance to the unguided teacher, and `guided` to the
    guided teacher. `outward` is half the distance between the class means along
    the x-axis, minus its value for the unguided teacher. `spread` and `total`
    are the variances of a class and of all points, divided by their values for
    the unguided teacher. Measures of single classes are averaged.
    """
    pairs = [(x[c::2], self.truth[c::2], self.guided[c::2]) for c in (0, 1)]
    return np.asarray(
      [
        np.mean([energy_distance(part, real) for part, real, _ in pairs]),
        np.mean([energy_distance(part, goal) for part, _, goal in pairs]),
        _outward(x) - _outward(self.truth),
        np.mean([_variance(part) / _variance(real) for part, real, _ in pairs]),
        _variance(x) / _variance(self.truth),
      ]
    )


def distill(
  experiment: toy.Experiment,
  students: Students,
  name: str,
  teacher: BoundNetwork,
) -> np.ndarray:
  """Distills a student per seed; returns all points (seeds, marks, n, 2)."""
  steps, changes = students.settings[name]
  section = load_config('configs/distill/base.py').distill.to_dict()
  config = DistillConfig(**{**with_tuples(section), 'method': 'dmd', **changes})
  path = Linear()
  distillation = Distillation(
    config=config,
    student=teacher.config,
    teacher=teacher.config,
    path=path,
    solver=Renoise(path),
    times=tuple(make_grid(steps).tolist()),
    batch_size=students.batch_size,
  )
  rules = step_lib.Rules(
    toy.adamw(students.lr, students.marks[-1]),
    toy.adamw(students.fake_lr, students.marks[-1] * config.period),
    EMAConfig(decay=students.decay, ramp=True),
  )
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  abstract = step_lib.abstract(distillation, rules, mesh)
  step = step_lib.make_distill_step(
    distillation, rules, abstract, teacher.params
  )
  clouds = []
  for seed in range(students.seeds):
    state = step_lib.fresh(
      distillation, rules, teacher.params, teacher.params, seed
    )
    key, n = jax.random.key(seed), 0
    clouds.append([])
    for mark in students.marks:
      while n < mark * config.period:
        state, _ = step(n, state, {}, key)
        n += 1
      student = backbone.bind(distillation.student, state.ema)
      x, _ = toy.draw(
        experiment, student, 'none', _SEED, solver=Renoise(path), steps=steps
      )
      clouds[-1].append(x)
  return np.asarray(clouds)


@dataclasses.dataclass(frozen=True)
class Results:
  """Values of MEASURES, and sampled points, by name.

  `marks` are numbers of student updates. `curves` has measures at all marks,
  (seeds, marks, measures). `rows` has measures at the end, (seeds, measures).
  `panels` has points of the first seed, (n, 2).
  """

  marks: tuple[int, ...]
  rows: dict[str, np.ndarray]
  curves: dict[str, np.ndarray]
  panels: dict[str, np.ndarray]

  def at(self, name: str, measure: str) -> np.ndarray:
    """Returns the curve of a measure, (seeds, marks)."""
    return self.curves[name][..., MEASURES.index(measure)]

  def text(self) -> str:
    """Returns Markdown tables of mean ± standard deviation over seeds."""
    ends = [[name, *map(cell, rows.T)] for name, rows in self.rows.items()]
    text = f'After {self.marks[-1]} updates of the student:\n\n'
    text += markdown.table(['', *MEASURES], ends)
    for measure, title in _DRAWN.items():
      text += f'\n{title[0].upper()}{title[1:]}, by updates:\n\n'
      lines = [[n, *map(cell, self.at(n, measure).T)] for n in self.curves]
      text += markdown.table(['', *map(str, self.marks)], lines)
    return text

  def clouds_figure(self) -> Figure:
    """Draws the points over the teacher's points."""
    figure, axes = charts.make_chart(len(self.panels), 4, (2.8, 3.1))
    truth = self.panels['teacher'][:1000]
    for ax, (name, x) in zip(axes, self.panels.items(), strict=True):
      cloud(ax, name, x[:1000], truth, np.arange(len(x[:1000])) % 2)
    return figure

  def curves_figure(self) -> Figure:
    """Draws measures over updates: the mean and the range over seeds."""
    figure, panels = charts.make_chart(len(_DRAWN))
    for ax, (measure, title) in zip(panels, _DRAWN.items(), strict=True):
      for name in self.curves:
        values = self.at(name, measure)[:, 1:]
        (line,) = ax.plot(self.marks[1:], values.mean(0), marker='.')
        line.set_label(name)
        ax.fill_between(
          self.marks[1:], values.min(0), values.max(0), alpha=0.2,
          color=line.get_color(), linewidth=0,
        )  # fmt: skip
      level = self.rows['teacher'][:, MEASURES.index(measure)].mean()
      ax.axhline(level, color='0.5', linestyle='--', label='teacher')
      ax.set_ylim(0, None)
      charts.label_panel(ax, title, 'updates', log='x')
    charts.add_legend(figure)
    return figure


def run(experiment: toy.Experiment, students: Students) -> Results:
  """Trains the teacher, distills the students, and measures their points."""
  (teacher,) = toy.train(experiment, experiment.network)

  def sample(guidance='none', seed=_SEED, **options):
    return toy.draw(experiment, teacher, guidance, seed, **options)[0]

  truth = sample(seed=_TRUTH_SEED)
  judge = Judge(truth, sample(GUIDANCE, _TRUTH_SEED))
  floor = [_FLOOR_SEED + k for k in range(students.seeds)]
  clouds = {
    'teacher': [sample(seed=seed) for seed in floor],
    f'teacher, {GUIDANCE}': [sample(GUIDANCE, seed) for seed in floor],
    'teacher, 1 Euler step': [sample(solver=Euler(), steps=1)],
    'teacher, 4 Euler steps': [sample(solver=Euler(), steps=4)],
  }
  rows = {
    name: np.asarray([judge(x) for x in points])
    for name, points in clouds.items()
  }
  curves, panels = {}, {name: points[0] for name, points in clouds.items()}
  for name in students.settings:
    points = distill(experiment, students, name, teacher)
    curves[name] = np.asarray([[judge(x) for x in p] for p in points])
    rows[name] = curves[name][:, -1]
    if name == 'CA only':
      middle = len(students.marks) // 2
      panels[f'CA only, {students.marks[middle]} updates'] = points[0, middle]
      name = f'CA only, {students.marks[-1]} updates'
    panels[name] = points[0, -1]
  return Results(students.marks, rows, curves, panels)


def main(argv: list[str] | None = None) -> None:
  """Writes toy_distill.md, toy_distill.png, toy_distill_curves.png to --out."""

  def make():
    results = run(experiment(), students())
    return results.text(), {
      'toy_distill': results.clouds_figure(),
      'toy_distill_curves': results.curves_figure(),
    }

  command_line('toy_distill', make, argv)


def _variance(x: np.ndarray) -> float:
  return float(x.var(0, ddof=1).sum())


def _outward(x: np.ndarray) -> float:
  """Returns half the distance between the class means along the x-axis."""
  return float(x[1::2, 0].mean() - x[::2, 0].mean()) / 2


if __name__ == '__main__':
  main()
