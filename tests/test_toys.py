"""Tests the toy experiments: their exact formulas, and short runs."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from experiments import (
  toy_distill,
  toy_fractal,
  toy_mixture,
  toy_report,
)

MIXTURES = {
  'mixture': toy_mixture.four_gaussians(),
  'distill': toy_distill.side_by_side(),
  'fractal': toy_fractal.tree(levels=3, pieces=3),
}


@pytest.fixture(params=MIXTURES)
def mixture(request):
  return MIXTURES[request.param]


def test_the_log_density_is_that_of_the_sum(mixture):
  rng = np.random.default_rng(0)
  for label in range(mixture.num_classes):
    x = mixture.draw(np.full(50, label), rng) + 0.1 * rng.standard_normal(2)
    expected = 0
    for k in np.flatnonzero(mixture.label == label):
      covariance = mixture.factor[k] @ mixture.factor[k].T
      expected += mixture.weight[k] * stats.multivariate_normal.pdf(
        x, mixture.mean[k], covariance
      )
    expected /= mixture.weight[mixture.label == label].sum()
    got = np.exp(mixture.log_density(x, label))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_density_integrates_to_one(mixture):
  line = np.linspace(-9, 9, 361)
  step = line[1] - line[0]
  x = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
  for label in range(mixture.num_classes):
    total = np.exp(mixture.log_density(x, label)).sum() * step**2
    assert total == pytest.approx(1, abs=0.01)


def test_draws_have_the_moments(mixture):
  for label in range(mixture.num_classes):
    x = mixture.draw(np.full(40_000, label), np.random.default_rng(0))
    mean, variance = mixture.moments(label)
    error = np.sqrt(variance / len(x))
    assert np.linalg.norm(x.mean(0) - mean) < 4 * error
    assert x.var(0).sum() == pytest.approx(variance, rel=0.03)


def test_draws_have_the_density(mixture):
  """The mean of p(x) over samples must equal the exact integral of p^2."""
  x = mixture.draw(np.zeros(40_000, int), np.random.default_rng(0))
  weight, mean, factor = mixture.of_class(0)
  covariance = factor @ factor.swapaxes(1, 2)
  expected = sum(
    weight[i]
    * weight[j]
    * stats.multivariate_normal.pdf(
      mean[i], mean[j], covariance[i] + covariance[j]
    )
    for i in range(len(weight))
    for j in range(len(weight))
  )
  got = np.exp(mixture.log_density(x, 0)).mean()
  assert got == pytest.approx(expected, rel=0.03)


def test_a_tree_branches_in_two():
  tree = toy_fractal.tree(levels=4, pieces=5)
  assert len(tree.weight) == 2 * 5 * (1 + 2 + 4 + 8)
  # The trees of the two classes grow in opposite directions.
  (first, _), (second, _) = tree.moments(0), tree.moments(1)
  assert first @ second < 0
  assert first.min() > 0 > second.max()


def test_energy_distance():
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((2, 1500, 2))
  assert toy_report.energy_distance(x, y) < 0.06
  y += np.asarray([0.5, 0])
  shifted = toy_report.energy_distance(x, y)
  assert shifted > 0.2
  assert toy_report.energy_distance(y, x) == pytest.approx(shifted)
  scaled = toy_report.energy_distance(4 * x, 4 * y)
  assert scaled == pytest.approx(2 * shifted)
  # Two point masses at distance 1 have an energy distance of sqrt(2 * 1).
  points = np.zeros((3, 2)), np.tile([1.0, 0.0], (4, 1))
  assert toy_report.energy_distance(*points) == pytest.approx(np.sqrt(2))


def test_the_judge_finds_what_is_wrong(mixture):
  count = 500
  label = np.arange(count * mixture.num_classes) % mixture.num_classes
  judge = toy_report.Judge(mixture, count)
  x = mixture.draw(label, np.random.default_rng(7))

  def judged(x):
    return dict(zip(toy_report.MEASURES, judge(x, label), strict=True))

  true = judged(x)
  assert true['energy'] < 0.1
  assert true['shift'] < 0.15
  assert true['spread'] == pytest.approx(1, abs=0.06)
  assert true['outliers'] < 0.01
  assert true['coverage'] == pytest.approx(0.95, abs=0.03)
  center = np.asarray([mixture.moments(c)[0] for c in label])
  narrow = judged(center + 0.3 * (x - center))
  assert narrow['spread'] == pytest.approx(0.3, abs=0.02)
  assert narrow['coverage'] < 0.5
  assert narrow['energy'] > 3 * true['energy']
  assert judged(x + np.asarray([0, 1]))['shift'] == pytest.approx(1, abs=0.15)
  assert judged(x + 9)['outliers'] > 0.9
  assert judged(np.roll(x, 1, axis=0))['other'] > 0.9


def quick(experiment):
  short = {'depth': 3, 'width': 8, 'steps': 5, 'batch_size': 32}
  return dataclasses.replace(
    experiment,
    network=dataclasses.replace(experiment.network, **short),
    guide=dataclasses.replace(experiment.guide, **short),
    networks=1,
    points=80,
    solver_steps=3,
  )


@pytest.mark.slow
@pytest.mark.parametrize('module', [toy_mixture, toy_fractal])
def test_quick(module, tmp_path, capsys):
  experiment = quick(module.experiment())
  scales = (toy_report.SCALES[0], experiment.fixed)
  toy_report.main(experiment, [f'--out={tmp_path}'], scales)
  text = (tmp_path / f'{experiment.name}.md').read_text()
  assert text in capsys.readouterr().out
  for name in ('true', 'none', *experiment.methods):
    assert f'| {name} |' in text
  assert 'nan' not in text
  with Image.open(tmp_path / f'{experiment.name}.png') as image:
    picture = np.asarray(image.convert('RGB'))
  assert picture.shape[1] > picture.shape[0] > 500
  assert picture.std() > 10


def test_the_judge_of_students_finds_what_is_wrong():
  label = np.arange(1000) % 2
  rng = np.random.default_rng(0)
  truth = toy_distill.side_by_side().draw(label, rng)
  apart = np.stack([2.0 * label - 1, np.zeros(1000)], axis=1)
  judge = toy_distill.Judge(truth, truth + apart)

  def judged(x):
    return dict(zip(toy_distill.MEASURES, judge(x), strict=True))

  same = judged(truth)
  assert same['energy'] == same['outward'] == 0
  assert same['spread'] == same['total'] == 1
  moved = judged(truth + apart)
  assert moved['guided'] == 0
  assert moved['energy'] == pytest.approx(same['guided'])
  assert moved['energy'] > 0.5
  assert moved['outward'] == pytest.approx(1)
  assert moved['spread'] == pytest.approx(1)
  assert moved['total'] > 1.5
  center = np.stack([truth[c::2].mean(0) for c in (0, 1)])[label]
  shrunk = judged(center + 0.5 * (truth - center))
  assert shrunk['spread'] == pytest.approx(0.25)
  assert shrunk['outward'] == pytest.approx(0)


@pytest.mark.slow
def test_students_in_the_quick_mode():
  experiment = quick(toy_distill.experiment())
  students = toy_distill.students(
    'CA only', seeds=2, marks=(0, 1), batch_size=16
  )
  results = toy_distill.run(experiment, students)
  assert results.curves['CA only'].shape == (2, 2, 5)
  # Both students start equal to the teacher. Different seeds separate them.
  before, after = results.at('CA only', 'energy').T
  assert before[0] == before[1]
  assert after[0] != after[1]
  text = results.text()
  for name in (*results.rows, *toy_distill.MEASURES):
    assert f'| {name} |' in text
  assert 'nan' not in text
  for draw in (results.clouds_figure, results.curves_figure):
    data = io.BytesIO()
    draw().savefig(data)
    with Image.open(data) as image:
      assert np.asarray(image.convert('RGB')).std() > 10


@pytest.mark.slow
@pytest.mark.usefixtures('good_compilation')
def test_students_do_what_the_docs_say():
  students = toy_distill.students(
    'DM, 1 step', 'CA only', 'hybrid', seeds=1, marks=(0, 25, 100, 200)
  )
  results = toy_distill.run(toy_distill.experiment(), students)
  names = toy_distill.MEASURES

  def end(name):
    return dict(zip(names, results.rows[name][0], strict=True))

  dm = end('DM, 1 step')
  assert dm['energy'] < 0.15  # Measured: 0.08 (teacher: 0.95).
  assert dm['energy'] < end('teacher, 1 Euler step')['energy'] / 5
  assert dm['spread'] == pytest.approx(1, abs=0.1)
  # With CA only, the student overshoots the guided teacher and then collapses.
  ca = results.at('CA only', 'energy')[0]
  assert ca[2] > 1.3  # Measured: 1.66.
  assert ca[2] > 1.5 * ca[1]
  assert ca[2] > 1.5 * end('teacher, cfg:3')['energy']
  total = results.at('CA only', 'total')[0]
  assert total[2] > 1.8  # Measured: 2.7.
  assert end('CA only')['spread'] < 0.1  # Measured: 0.03.
  # The hybrid student also has DM, which stabilizes training.
  assert results.at('hybrid', 'energy')[0].max() < 0.8  # Measured: 0.50.
  total = results.at('hybrid', 'total')[0, 1:]
  assert 0.5 < total.min() < total.max() < 1.5
  assert results.at('hybrid', 'spread')[0, 1:].min() > 0.3
