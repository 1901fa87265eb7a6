"""Tests DMDR's dynamic start, and separate random steps for each image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_close, assert_same
from students import TEACHER, TIMES, make_distillation

from distill import lora
from distill.noise_levels import beta_now, draw_levels
from distill.rollout import Visit
from dit import model
from train import config_file

KEY = jax.random.key(0)
LABEL = jnp.arange(8) % 3
DMDR = {
  'fake': 'lora', 'lora_rank': 4, 'level_beta': (4.0, 1.5),
  'teacher_lora_scale': 0.75, 'dynamic_updates': 10_000,
  'step_per_image': True, 'min_level': 0.0, 'max_level': 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
  ('updates', 'a', 'b'),
  [(0, 4.0, 1.5), (5_000, 2.5, 1.25), (10_000, 1.0, 1.0), (12_345, 1.0, 1.0)],
)
def test_levels_go_from_noisy_to_uniform(updates, a, b):
  """Both parameters of the beta distribution decay to 1 along half a cosine."""
  config = make_distillation(**DMDR).config
  beta = beta_now(config, jnp.int32(updates))
  np.testing.assert_allclose(beta, (a, b), atol=1e-6)
  levels = draw_levels(config, KEY, 20_000, 1.0, beta)
  np.testing.assert_allclose(levels.mean(), a / (a + b), atol=0.01)
  variance = a * b / ((a + b) ** 2 * (a + b + 1))
  np.testing.assert_allclose(levels.var(), variance, atol=0.005)
  assert levels.min() >= 0 and 0.99 < levels.max() <= 1


def test_levels_of_both_losses_follow_the_schedule(student):
  """The schedule sets the levels of DM and of the fake, but not of CA."""
  distillation = make_distillation(
    batch_size=512, guidance='cfg:2', schedule='full', **DMDR
  )
  visit = make_visit(distillation, jnp.zeros(512, int))

  @jax.jit
  def levels(updates):
    places = distillation.queries(visit, KEY, updates)
    fake = distillation._fake_levels(KEY, updates)
    return places['ca'][1], places['dm'][1], fake

  moments = (0, (1 / 2, 8 / 11, 8 / 11)), (10_000, 3 * [1 / 2])
  for updates, expected in moments:
    means = [level.mean() for level in levels(updates)]
    np.testing.assert_allclose(means, expected, atol=0.05)
  assert levels._cache_size() == 1  # The program is compiled once.


def make_visit(distillation, k):
  x = jnp.zeros((len(k), *TEACHER.latent_shape))
  return Visit(k, distillation.grid[k], x, x, x)


def test_real_score_begins_near_the_fake_and_ends_at_the_teacher(
  student, teacher
):
  changes = lora.init(TEACHER, 4, KEY)
  changes = jax.tree.map(lambda leaf: leaf + 0.05, changes)
  fake = {'network': changes}
  # With equal LoRA scales, the real and the fake score are equal at the start.
  given = DMDR | {'teacher_lora_scale': 2.0, 'lora_scale': 2.0}
  distillation = make_distillation(**given)
  visit = make_visit(distillation, jnp.zeros(8, int))
  places = distillation.queries(visit, KEY)

  @jax.jit
  def dm(updates):
    given = visit, places, fake, teacher, LABEL, updates
    return distillation.directions(*given)[1]

  assert jnp.abs(dm(0)).max() < 1e-5
  assert jnp.abs(dm(5_000)).max() > 1e-3
  assert_same(distillation.real(teacher, fake, 10_000).params, teacher)
  half = make_distillation(**DMDR).real(teacher, fake, 5_000).params
  expected = lora.apply(teacher, changes, 0.375)
  assert_close(half, expected, rtol=1e-5, atol=1e-6)


def test_each_image_draws_its_own_step(student):
  """An image does not depend on the steps of other images in its batch."""
  distillation = make_distillation(step_per_image=True)
  visit = jax.jit(distillation.visit)(student, LABEL, KEY)
  assert len(set(visit.k.tolist())) > 1
  np.testing.assert_array_equal(visit.t, np.asarray(TIMES)[visit.k])
  denoiser = model.bind(distillation.student, student)

  @jax.jit
  def expected(k):
    z = distillation.roll_out(denoiser, LABEL, k, jax.random.split(KEY)[1])
    return z, denoiser(z, jnp.full(8, distillation.grid[k]), LABEL).velocity

  for k in range(4):
    z, v = expected(k)
    mine = visit.k == k
    np.testing.assert_allclose(visit.z[mine], z[mine], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(visit.v[mine], v[mine], rtol=1e-3, atol=1e-4)


def test_timestep_sharing_takes_a_step_for_each_image(student):
  distillation = make_distillation(
    query='student_trajectory', solver='euler', step_per_image=True
  )
  k = jnp.arange(8) % 4
  x = jax.random.normal(KEY, (8, *TEACHER.latent_shape))
  visit = make_visit(distillation, k)._replace(z=x, v=2 * x)
  ((q, r),) = distillation.queries(visit, KEY).values()
  inner = k < 3
  following = np.asarray(TIMES)[np.asarray(k) + 1]
  np.testing.assert_array_equal(r[inner], following[inner])
  lengths = (following - np.asarray(TIMES)[np.asarray(k)])[:, None, None, None]
  euler = x + lengths * 2 * x
  np.testing.assert_allclose(q[inner], euler[inner], rtol=1e-6, atol=1e-6)
  assert set(r[~inner].tolist()) <= set(TIMES[1:-1])


@pytest.mark.parametrize('method', ['dm,1', 'shared,1', 'flash,4'])
def test_sit_has_the_recipe_of_dmdr(method):
  """The constants are those of DMDR. SD3.5-Flash has no dynamic start."""
  config = config_file.load_config(f'configs/distill/sit.py:XL/2,{method}')
  given, flash = config.distill, method.startswith('flash')
  assert tuple(given.level_beta) == ((1, 1) if flash else (4, 1.5))
  assert given.teacher_lora_scale == (0 if flash else 0.75)
  assert given.step_per_image != flash
  assert (given.fake, given.lora_rank, given.lora_scale) == ('lora', 32, 2)
  assert given.fake_updates == 5
  optimizer = config.optimizer
  assert (optimizer.lr, optimizer.weight_decay) == (2e-5, 0.01)
  assert (optimizer.b1, optimizer.b2, optimizer.clip) == (0.9, 0.999, 1)
  if not flash:
    assert given.dynamic_updates == 10_000
    assert (given.min_level, given.max_level) == (0, 1)
    batch = config.train.batch_size
    assert batch == 512 and config.train.images == 20_000 * 5 * batch
