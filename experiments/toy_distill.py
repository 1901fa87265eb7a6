"""Students of a few steps in the plane, where the right answer is known.

  python -m experiments.toy_distill

Two classes side by side, three Gaussians each, that overlap. The teacher is
trained as in the other toys, and its own samples at many steps are the truth
that a student has to match. Distilled with the project's objective and step
(distill/):

  DM         without guidance: has to match the teacher
  CA only    guided, with nothing beside CA: Decoupled DMD (arXiv 2511.22677)
             reports over-saturation, rising variance, collapse
  CA + DM    guided, with each of its four schedules of noise levels

See docs/toys.md.
"""

import argparse
import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.files import write_json
from core.nested import with_tuples
from distill import step as step_lib
from distill.config import SCHEDULES, DistillConfig
from distill.objective import Distillation
from dit import backbone
from dit.base import BoundNetwork
from dit.path import Linear
from dit.sharding import MeshConfig, make_mesh
from dit.types import Denoiser
from experiments import toy, toy_distill_report
from experiments.toy_report import energy_distance
from guidance import parse
from sample import pictures, sampler
from sample.grid import make_grid
from sample.solvers import Euler, Heun, Renoise, Solver
from train.config_file import load_config
from train.ema import EMAConfig
from train.optimizer import OptimizerConfig, make_optimizer, make_schedule

# Noise of the teacher's samples that are the truth, of others of its own, and
# of everything else.
_TRUTH_SEED, _FLOOR_SEED, _SEED = 100, 200, 1


@dataclasses.dataclass(frozen=True)
class Setting:
  """A student.

  Attributes:
    name: in tables and pictures.
    steps: of the student.
    changes: of the section `distill`, configs/distill/base.py.
  """

  name: str
  steps: int
  changes: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Students:
  """The experiment beside data and teacher.

  Attributes:
    settings: the students.
    scale: of CFG, where there is any.
    seeds: of each student; the teacher is the same.
    marks: updates of the student after which it is measured; then it ends.
    batch_size: of every update.
    lr: of the student at first; both fall by a cosine.
    fake_lr: of the fake denoiser.
    decay: of the student's average, per update, which is what is sampled.
  """

  settings: tuple[Setting, ...]
  scale: float = 3.0
  seeds: int = 3
  marks: tuple[int, ...] = (0, 10, 25, 50, 100, 150, 200, 300, 400)
  batch_size: int = 256
  lr: float = 5e-4
  fake_lr: float = 2e-3
  decay: float = 0.98

  def quick(self) -> 'Students':
    """The same in seconds, for a smoke test."""
    chosen = ('DM, 1 step', 'CA only', 'hybrid')
    settings = tuple(s for s in self.settings if s.name in chosen)
    return dataclasses.replace(
      self, settings=settings, seeds=1, marks=(0, 1), batch_size=16
    )


def side_by_side() -> toy.Mixture:
  """The data: arrow heads that point left and right, and meet in the middle."""
  places = np.asarray([(2.0, 0.0), (0.6, 1.8), (0.6, -1.8)])
  return toy.Mixture(
    weight=np.ones(6),
    mean=np.concatenate([places * (-1, 1), places]),
    factor=np.tile(0.5 * np.eye(2), (6, 1, 1)),
    label=np.repeat([0, 1], 3),
  )


def experiment() -> toy.Experiment:
  """Data and teacher."""
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


def students(scale: float = 3.0) -> Students:
  """The students: DM alone, CA alone, and both with each schedule."""
  guided = {'guidance': f'cfg:{scale:g}'}
  return Students(
    settings=(
      Setting('DM, 1 step', 1, {'guidance': 'none'}),
      Setting('DM, 4 steps', 4, {'guidance': 'none'}),
      Setting('CA only', 4, {**guided, 'regularizer': 'none'}),
      *(Setting(name, 4, {**guided, 'schedule': name}) for name in SCHEDULES),
    ),
    scale=scale,
  )


def draw(
  experiment: toy.Experiment,
  denoiser: Denoiser,
  steps: int,
  solver: Solver,
  guidance: str = 'none',
  seed: int = _SEED,
) -> np.ndarray:
  """Points (n, 2), the classes in turn."""
  label = jnp.arange(experiment.points) % experiment.mixture.num_classes
  x, _ = sampler.sample(
    denoiser,
    parse(guidance),
    label,
    jnp.arange(len(label)),
    make_grid(steps),
    jnp.uint32(seed),
    solver=solver,
    shape=(1, 1, 2),
  )
  return np.asarray(x, np.float64).reshape(-1, 2) * experiment.unit


class Judge:
  """Compares points with the teacher's."""

  def __init__(self, truth: np.ndarray, guided: np.ndarray) -> None:
    """Takes the teacher's points, (n, 2), without and with guidance."""
    self.truth, self.guided = truth, guided

  def __call__(self, x: np.ndarray) -> np.ndarray:
    """Measures x (n, 2), of which every other point is of class 1.

    Returns:
      (5,), in the order of MEASURES. energy: the energy distance to the
      teacher's points, and guided: to those of the guided teacher, means over
      the classes. outward: how much farther the class is from the other one
      than the teacher's. spread: variance within the class, over the teacher's.
      total: variance of all points, over the teacher's.
    """
    pairs = [(x[c::2], self.truth[c::2], self.guided[c::2]) for c in (0, 1)]
    return np.asarray(
      [
        np.mean([energy_distance(mine, true) for mine, true, _ in pairs]),
        np.mean([energy_distance(mine, far) for mine, _, far in pairs]),
        _outward(x) - _outward(self.truth),
        np.mean([_variance(mine) / _variance(true) for mine, true, _ in pairs]),
        _variance(x) / _variance(self.truth),
      ]
    )


def distill(
  experiment: toy.Experiment,
  students: Students,
  setting: Setting,
  teacher: BoundNetwork,
) -> np.ndarray:
  """Makes a student once for each seed; its points (seeds, marks, n, 2)."""
  config = DistillConfig(**{**_defaults(), 'method': 'dmd', **setting.changes})
  path = Linear()
  distillation = Distillation(
    config=config,
    student=teacher.config,
    teacher=teacher.config,
    path=path,
    solver=Renoise(path),
    times=tuple(make_grid(setting.steps).tolist()),
    batch_size=students.batch_size,
  )
  rules = step_lib.Rules(
    _optimizer(students.lr, students.marks[-1]),
    _optimizer(students.fake_lr, students.marks[-1] * config.period),
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
      clouds[-1].append(draw(experiment, student, setting.steps, Renoise(path)))
  return np.asarray(clouds)


def run(
  experiment: toy.Experiment, students: Students
) -> toy_distill_report.Results:
  """Trains the teacher, makes the students, and measures."""
  (teacher,) = toy.train(experiment, experiment.network)
  guidance, many = f'cfg:{students.scale:g}', experiment.solver_steps

  def ask(steps, solver, guidance='none', seed=_SEED):
    return draw(experiment, teacher, steps, solver, guidance, seed)

  truth = ask(many, Heun(), seed=_TRUTH_SEED)
  judge = Judge(truth, ask(many, Heun(), guidance, _TRUTH_SEED))
  clouds = {
    'teacher': [
      ask(many, Heun(), seed=_FLOOR_SEED + k) for k in range(students.seeds)
    ],
    f'teacher, {guidance}': [
      ask(many, Heun(), guidance, _FLOOR_SEED + k)
      for k in range(students.seeds)
    ],
    'teacher, 1 Euler step': [ask(1, Euler())],
    'teacher, 4 Euler steps': [ask(4, Euler())],
  }
  rows = {
    name: np.asarray([judge(x) for x in points])
    for name, points in clouds.items()
  }
  curves, panels = {}, {name: points[0] for name, points in clouds.items()}
  for setting in students.settings:
    points = distill(experiment, students, setting, teacher)
    curves[setting.name] = np.asarray([[judge(x) for x in p] for p in points])
    rows[setting.name] = curves[setting.name][:, -1]
    if setting.name == 'CA only':
      early = len(students.marks) // 2
      update = students.marks[early]
      panels[f'CA only, {update} updates'] = points[0, early]
      panels[f'CA only, {students.marks[-1]} updates'] = points[0, -1]
    else:
      panels[setting.name] = points[0, -1]
  return toy_distill_report.Results(students.marks, rows, curves, panels)


def main(argv: list[str] | None = None) -> None:
  """The command line: toy_distill.md, .json, .png and _curves.png in --out."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--out', default='runs/toys', help='folder for results')
  parser.add_argument(
    '--quick', action='store_true', help='seconds, to see that it runs'
  )
  args = parser.parse_args(argv)
  data, made = experiment(), students()
  if args.quick:
    data, made = data.quick(), made.quick()
    # Programs that run a few steps are compiled quickly instead of well.
    jax.config.update('jax_disable_most_optimizations', True)
  start, cpu = time.perf_counter(), time.process_time()
  results = run(data, made)
  start, cpu = time.perf_counter() - start, time.process_time() - cpu
  folder = pathlib.Path(args.out)
  folder.mkdir(parents=True, exist_ok=True)
  text = results.text()
  (folder / 'toy_distill.md').write_text(text)
  protocol = {
    'teacher': {**dataclasses.asdict(data.network), 'points': data.points},
    'students': dataclasses.asdict(made),
    'seconds': round(start),
    'processor_seconds': round(cpu),
  }
  write_json(
    folder / 'toy_distill.json', {'protocol': protocol, **results.as_dict()}
  )
  pictures.write_figure(folder / 'toy_distill.png', results.clouds_figure())
  pictures.write_figure(
    folder / 'toy_distill_curves.png', results.curves_figure()
  )
  print(f'{text}\n{start:.0f} s, of them {cpu:.0f} s of processor time')


def _defaults() -> dict[str, Any]:
  section = load_config('configs/distill/base.py').distill
  return with_tuples(section.to_dict())


def _optimizer(lr: float, updates: int) -> optax.GradientTransformation:
  rule = OptimizerConfig(
    lr=lr, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip=1.0,
    warmup_images=0, schedule='cosine', end_fraction=0.05,
  )  # fmt: skip
  schedule = make_schedule(rule, batch_size=1, total_images=updates)
  return make_optimizer(rule, schedule)


def _variance(x: np.ndarray) -> float:
  return float(x.var(0, ddof=1).sum())


def _outward(x: np.ndarray) -> float:
  """Half of how far class 1 lies to the right of class 0."""
  return float(x[1::2, 0].mean() - x[::2, 0].mean()) / 2


if __name__ == '__main__':
  main()
