"""The DM and CA terms of distillation, and their noise levels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from students import TEACHER, TIMES, make_distillation

from core.errors import InputError
from distill import dmd, objective
from distill.noise_levels import bounds, draw_levels, trained_steps
from distill.objective import Distillation
from dit import model
from dit.types import ClassConditional, DenoiserOutput

LABEL = jnp.arange(8) % 3
_visit = jax.jit(Distillation.visit, static_argnums=0)
_directions = jax.jit(Distillation.directions, static_argnums=0)
_apply = jax.jit(lambda denoiser, *args: denoiser(*args))


def visited(distillation, params, seed=1):
  # `visit` ignores the config, so a constant config avoids recompilation.
  config = make_distillation().config
  return _visit(
    dataclasses.replace(distillation, config=config),
    params, LABEL, jax.random.key(seed),
  )  # fmt: skip


def asked(distillation, student, teacher, fake=None, seed=1):
  """Returns the output of `directions`, and its inputs: visit and queries."""
  visit = visited(distillation, student, seed)
  places = distillation.queries(visit, jax.random.key(2))
  fake = {'network': student} if fake is None else fake
  found = _directions(distillation, visit, places, fake, teacher, LABEL)
  return found, visit, places


@pytest.mark.slow
@pytest.mark.parametrize('guidance', ['cfg:4', 'ig:1.7,cfg:2'])
def test_terms_of_one_level_are_dmd_of_the_guided_teacher(
  student, teacher, guidance
):
  """At equal levels, DM + CA = (x0_guided - x0_fake) / mean |x0_guided - x|."""
  with jax.enable_x64(True):
    of = dataclasses.replace(TEACHER, dtype='float64', param_dtype='float64')
    wide, own = jax.tree.map(np.float64, (teacher, student))
    distillation = make_distillation(
      teacher=of, guidance=guidance, schedule='shared', normalizer='guided'
    )
    (_, dm, ca, _), visit, places = asked(distillation, own, wide)
    q, r = places['both']
    denoiser = model.bind(of, wide)
    method = distillation.config.teacher_guidance

    def internal(out):
      if method.internal is None:
        return out.velocity
      w = method.internal.scale.value
      return out.velocity + (w - 1) * (out.velocity - out.intermediate[0])

    c = internal(_apply(denoiser, q, r, LABEL))
    u = internal(_apply(denoiser, q, r, jnp.full_like(LABEL, 3)))
    alpha = method.terms[0].scale.value
    guided = u + alpha * (c - u)
    fake = model.bind(distillation.fake_config, own)
    v_fake = _apply(fake, q, r, LABEL).velocity
    s = r[:, None, None, None]
    x0, x0_fake = q - s * guided, q - s * v_fake
    unit = jnp.abs(x0 - visit.x).mean((1, 2, 3), keepdims=True) + 1e-8
    expected = (x0 - x0_fake) / unit
    np.testing.assert_allclose(dm + ca, expected, rtol=1e-10, atol=1e-12)
    assert np.abs(ca).max() > 0.01


def test_terms_of_internal_guidance(student, teacher):
  """CA of ig:1.7 is 0.7 (x0 - x0_tap) / mean |x0 - x|. DM ignores the tap."""
  distillation = make_distillation(guidance='ig:1.7', schedule='shared')
  (_, dm, ca, _), visit, places = asked(distillation, student, teacher)
  q, r = places['both']
  out = _apply(model.bind(TEACHER, teacher), q, r, LABEL)
  s = r[:, None, None, None]
  x0 = q - s * out.velocity
  unit = jnp.abs(x0 - visit.x).mean((1, 2, 3), keepdims=True)
  tap = out.velocity - out.intermediate[0]
  np.testing.assert_allclose(ca, -s * 0.7 * tap / unit, rtol=1e-4, atol=1e-5)
  plain = make_distillation(schedule='shared')
  (_, alone, none, _), *_ = asked(plain, student, teacher)
  np.testing.assert_allclose(dm, alone, rtol=1e-4, atol=1e-5)
  assert not none.any()


def test_the_interval_of_guidance_gates_ca(student, teacher):
  distillation = make_distillation(guidance='cfg:2@0-0.4', schedule='full')
  (_, _, ca, _), _, places = asked(distillation, student, teacher)
  inside = np.asarray(places['ca'][1] <= 0.4)
  moved = np.abs(ca).max((1, 2, 3)) > 0
  assert (moved == inside).all()
  assert 0 < inside.sum() < 8


@pytest.mark.parametrize(('guidance', 'schedule', 'rows'), [
  ('cfg:1', 'hybrid', [8]), ('cfg:1.5', 'hybrid', [16, 8]),
  ('cfg:1.5', 'shared', [16]), ('ig:1.5', 'hybrid', [8, 8]),
  ('ig:1.5', 'shared', [8]),
])  # fmt: skip
def test_rows_that_the_teacher_sees(
  student, teacher, monkeypatch, guidance, schedule, rows
):
  """At CFG scale 1, CA is 0, so the teacher gets no null labels."""
  seen = []

  class Counting(ClassConditional):
    num_classes = TEACHER.num_classes

    def __init__(self, config, params):
      self.config = config

    def __call__(self, x, t, label, *rest):
      if self.config.taps:  # Only the teacher has taps.
        seen.append((len(x), int((label == TEACHER.num_classes).sum())))
      return DenoiserOutput(x * (1 + label[:, None, None, None]), (x,))

  distillation = make_distillation(guidance=guidance, schedule=schedule)
  visit = visited(distillation, student)
  places = distillation.queries(visit, jax.random.key(2))
  monkeypatch.setattr(objective.backbone, 'bind', Counting)
  _, _, ca, metrics = distillation.directions(
    visit, places, {'network': student}, teacher, LABEL
  )
  assert [count for count, _ in seen] == rows
  null = sum(null for _, null in seen)
  assert null == (8 if 'cfg:1.5' in guidance else 0)
  assert ca.any() == ('1.5' in guidance)
  assert ('distill/ca' in metrics) == ('1.5' in guidance)


def test_dm_vanishes_where_the_fake_is_the_teacher(student, teacher):
  network = {key: teacher[key] for key in teacher if key != 'tap_heads'}
  (_, dm, ca, metrics), *_ = asked(
    make_distillation(guidance='cfg:2'), student, teacher, {'network': network}
  )
  assert np.abs(dm).max() < 1e-4
  assert np.abs(ca).max() > 0.01
  assert metrics['distill/cosine_fake_real'] > 0.9999


def test_a_surrogate_moves_along_its_direction():
  x, direction = jnp.ones((2, 3, 3, 2)), jnp.arange(36.0).reshape(2, 3, 3, 2)
  grad = jax.grad(dmd.surrogate)(x, direction)
  np.testing.assert_allclose(grad, -direction / 36, rtol=1e-6)
  # A non-finite direction gives a non-finite loss, which skips the step.
  assert not np.isfinite(dmd.surrogate(x, direction.at[0].set(jnp.nan)))


def test_mean_variance_is_least_at_its_target():
  key = jax.random.key(0)
  x = jax.random.normal(key, (64, 8, 8, 4))
  x = (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
  assert abs(dmd.mean_variance(0.9 * x + 0.1, 0.1, 0.9)) < 1e-5
  for mean, std in ((0.2, 0.9), (0.1, 0.8), (0.1, 1.0)):
    assert dmd.mean_variance(0.9 * x + 0.1, mean, std) > 1e-3


@pytest.mark.parametrize('shift', [0.3, 1.0, 3.0])
@pytest.mark.parametrize(
  'schedule', ['shared', 'full', 'constrained', 'hybrid']
)
def test_levels_of_the_schedules(schedule, shift):
  """`hybrid` limits CA levels to t. `constrained` limits CA and DM levels."""
  config = make_distillation(schedule=schedule, shift=shift).config
  for t in (1.0, 0.9, 0.5, 0.25, 0.01):
    tops = bounds(config, jnp.float32(t))
    bound = {'constrained': (t, t), 'hybrid': (t, 1.0)}.get(schedule, (1, 1))
    for top, expected in zip(tops, bound, strict=True):
      levels = draw_levels(config, jax.random.key(3), 4000, top)
      assert float(top) == np.float32(expected)
      assert levels.max() <= np.float32(expected)
      assert levels.max() <= np.float32(0.98)
      low, high = min(0.02, expected), min(0.98, expected)
      np.testing.assert_allclose(levels.min(), low, atol=0.02)
      np.testing.assert_allclose(levels.max(), high, atol=0.02)
      # Without the shift, the levels are uniform.
      before = levels / (shift - (shift - 1) * levels)
      ends = [s / (shift - (shift - 1) * s) for s in (low, high)]
      np.testing.assert_allclose(before.mean(), np.mean(ends), atol=0.02)


def test_shifted_bound_is_the_grid_point_before_the_shift():
  """A shift of 3 turns uniform values up to 0.25 into levels up to 0.5."""
  config = make_distillation(shift=3.0, max_level=1.0, min_level=0.0).config
  levels = draw_levels(config, jax.random.key(0), 20_000, 0.5)
  before = levels / (3 - 2 * levels)
  np.testing.assert_allclose(before.max(), 0.25, atol=1e-3)
  np.testing.assert_allclose(before.mean(), 0.125, atol=2e-3)


def test_noise_of_the_two_terms_is_their_own(student):
  distillation = make_distillation(guidance='cfg:2', schedule='full')
  visit = visited(distillation, student)
  places = distillation.queries(visit, jax.random.key(2))
  noises = []
  for q, r in (places['ca'], places['dm']):
    s = r[:, None, None, None]
    noises.append(np.ravel((q - (1 - s) * visit.x) / s))
  assert abs(np.corrcoef(noises)[0, 1]) < 0.15
  shared = make_distillation(guidance='cfg:2', schedule='shared')
  assert set(shared.queries(visit, jax.random.key(2))) == {'both'}


def test_timestep_sharing_asks_at_the_points_of_the_students_grid(student):
  distillation = make_distillation(
    query='student_trajectory', solver='euler', guidance='cfg:2'
  )
  seen = set()
  for seed in range(24):
    visit = visited(distillation, student, seed)
    ((q, r),) = distillation.queries(visit, jax.random.key(seed)).values()
    k = int(visit.k)
    seen.add(k)
    assert (r == r[0]).all()
    assert float(r[0]) in TIMES[1:-1]
    if k < 3:
      assert float(r[0]) == TIMES[k + 1]
      euler = visit.z + (TIMES[k + 1] - TIMES[k]) * visit.v
      np.testing.assert_allclose(q, euler, rtol=1e-6)
  assert seen == {0, 1, 2, 3}


def test_timestep_sharing_moves_the_point_itself(student, teacher):
  distillation = make_distillation(query='student_trajectory', solver='euler')
  (moved, dm, *_), _, places = asked(distillation, student, teacher)
  np.testing.assert_array_equal(moved, places['both'][0])
  renoised = make_distillation(query='grid', solver='euler')
  (moved, *_), visit, _ = asked(renoised, student, teacher)
  np.testing.assert_array_equal(moved, visit.x)
  assert dm.any()


@pytest.mark.parametrize(
  ('branch', 'steps'), [('', [0, 1, 2, 3]), ('low', [2, 3]), ('high', [0, 1])]
)
def test_branches_share_the_grid(branch, steps):
  assert trained_steps(branch, np.array(TIMES)).tolist() == steps


@pytest.mark.parametrize(('given', 'message'), [
  ({'guidance': 's2:1.5'}, 'expected ig, cfg or both'),
  ({'guidance': 'apg:3'}, 'expected ig, cfg or both'),
  ({'normalizer': 'guided'}, 'set distill.schedule=shared'),
  ({'regularizer': 'gan'}, 'gan_weight is 0'),
  ({'regularizer': 'none'}, 'no term is left'),
  ({'regularizer': 'none', 'guidance': 'cfg:1'}, 'no term is left'),
  ({'regularizer': 'dm', 'dm_weight': 0.0}, 'no term is left'),
  ({'regularizer': 'mean_variance', 'dm_weight': 0.0}, 'no term is left'),
  ({'branch': 'high', 'method': 'teacher_trajectory'}, 'the whole grid'),
  ({'discriminator_blocks': (1.5,)}, 'has 1.5, expected an integer'),
  ({'discriminator_blocks': ('a',)}, "has 'a', expected an integer"),
  ({'moments': ('a', 'b')}, "has 'a', expected a number"),
  ({'moments': (1.0,)}, 'expected a mean and'),
  ({'moments': (0.0, 0.0)}, 'positive standard deviation'),
  ({'schedule': 'hybird'}, "Did you mean 'hybrid'"),
  ({'min_level': 0.99}, 'min_level is 0.99'),
  ({'fake_updates': 0}, 'fake_updates is 0'),
  ({'level_beta': (4.0,)}, 'expected two numbers'),
  ({'level_beta': (4.0, 0.0)}, 'level_beta has 0'),
  ({'level_beta': ('a', 'b')}, 'level_beta has'),
  ({'teacher_lora_scale': 0.75}, 'no fake denoiser with low-rank'),
  ({'dynamic_updates': 0}, 'dynamic_updates is 0'),
  ({'merge_ratios': (0.5, 1.5)}, 'merge_ratios has 1.5'),
])  # fmt: skip
def test_settings_that_cannot_be(given, message):
  with pytest.raises(InputError, match=message) as error:
    make_distillation(**given)
  assert '\n' not in str(error.value)
