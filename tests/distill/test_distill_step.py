"""On every mesh, a distillation step updates the right networks."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_close
from students import TEACHER, make_distillation

from distill import discriminator, lora, step
from dit import model
from dit.sharding import MeshConfig, make_mesh, tree_shardings
from sample import sampler
from sample.solvers import Euler, Evaluation
from train.checkpointer import CheckpointConfig, Checkpointer
from train.ema import EMAConfig
from train.optimizer import OptimizerConfig, make_optimizer, make_schedule

KEY, LABEL = jax.random.key(0), jnp.arange(8) % 3
GAN = {'gan_weight': 0.1, 'discriminator_reset': 0.5}
CFG = {'guidance': 'cfg:1.5'}
LORA = {**CFG, 'fake': 'lora', 'lora_rank': 4}
FORMS = {
  'hybrid': CFG,
  'lora': LORA,
  'flash': {**GAN, 'query': 'student_trajectory', 'solver': 'euler',
            'guidance': 'ig:1.3,cfg:1.5'},
  'dynamic': {**LORA, 'level_beta': (4.0, 1.5), 'teacher_lora_scale': 0.75,
              'dynamic_updates': 3, 'step_per_image': True},
  'gan': {**GAN, **CFG, 'regularizer': 'gan', 'fake': 'lora'},
}  # fmt: skip


def make_rules(lr=1e-2):
  config = OptimizerConfig(
    # Adam with a small eps amplifies rounding errors of zero gradients.
    lr=lr, b1=0.9, b2=0.99, eps=1e-3, weight_decay=0.0, clip=1.0,
    warmup_images=0, schedule='constant', end_fraction=1.0,
  )  # fmt: skip
  schedule = make_schedule(config, batch_size=8, total_images=800)
  rule = make_optimizer(config, schedule)
  return step.Rules(rule, rule, EMAConfig(decay=0.5, ramp=False))


def started(
  teacher, student, sizes=(1, 1, 1), zero1=False, fresh=True, **given
):
  distillation, rules = make_distillation(**given), make_rules()
  mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
  teacher, student = (
    jax.device_put(tree, tree_shardings(tree, mesh))
    for tree in (teacher, student)
  )
  abstract = step.abstract(distillation, rules, mesh, zero1=zero1)
  make = jax.jit(
    functools.partial(step.fresh, distillation, rules, seed=0),
    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
  )
  advance = step.make_distill_step(distillation, rules, abstract, teacher)

  def batch(n):
    if not distillation.config.adversarial:
      return {}
    rng = np.random.default_rng(n)
    image = rng.integers(0, 256, (8, 4, 4, 2)).astype(np.uint8)
    return {'image': image, 'label': np.arange(8, dtype=np.int32) % 3}

  def run(state, steps, program=None):
    """Returns the state after some steps, and the metrics of each step.

    Step n runs program n. If `program` is given, all steps run that program.
    """
    state = jax.tree.map(jnp.copy, state)
    rows = []
    with jax.set_mesh(mesh):
      for _ in range(steps):
        n = int(state.step)
        which = n if program is None else program
        state, metrics = advance(which, state, batch(n), KEY)
        rows.append(jax.device_get(metrics))
    return state, rows

  run.teacher, run.advance = teacher, advance
  with jax.set_mesh(mesh):
    return fresh and make(student, teacher), run, abstract


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in [*FORMS][1:]]


@pytest.fixture(scope='module', params=['hybrid', *SLOW])
def form(request, teacher, student):
  given = {**FORMS[request.param], 'fake_updates': 3}
  return request.param, given, *started(teacher, student, **given)


def same(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all((np.asarray(x) == np.asarray(y)).all() for x, y in leaves)


def test_a_fake_update_changes_the_fake_alone(form):
  _, _, state, run, _ = form
  after, (row,) = run(state, 1)
  for name in ('params', 'ema', 'opt_state', 'power'):
    assert same(getattr(after, name), getattr(state, name)), name
  assert not same(after.fake['network'], state.fake['network'])
  assert after.step == 1
  assert 'loss/student' not in row


@pytest.mark.slow
def test_the_student_is_updated_once_in_a_period(form):
  name, _, state, run, _ = form
  after, rows = run(state, 6)
  assert ['loss/student' in row for row in rows] == 2 * [False, False, True]
  assert not same(after.params, state.params)
  assert not same(after.ema, state.ema)
  assert not same(after.ema, after.params)
  for row in rows:
    assert all(np.isfinite(value) for value in row.values())
  if name == 'gan':
    assert 'distill/dm' not in rows[-1] and 'loss/gan' in rows[-1]
    return
  shown = 'dm', 'ca', 'ca_to_dm', 'student_std', 'cosine_fake_real'
  shown = {f'distill/{name}' for name in shown}
  assert shown | {'loss/fake'} <= rows[-1].keys()
  if name == 'flash':
    assert {'loss/gan', 'loss/discriminator'} <= set(rows[2])


def test_a_student_update_leaves_the_fake_to_its_own(form):
  """A student update in step 3 does not change the update of the fake."""
  _, _, state, run, _ = form
  second, _ = run(state, 2)
  (with_student, _), (alone, _) = run(second, 1), run(second, 1, program=0)
  assert_close(with_student.fake, alone.fake, rtol=1e-5, atol=1e-6)
  assert same(alone.params, second.params)
  assert not same(with_student.params, second.params)


def test_a_run_goes_on_in_the_middle_of_a_period(form, tmp_path):
  """A run saved in the middle of a three-step period resumes exactly."""
  _, _, state, run, abstract = form
  fourth, _ = run(state, 4)
  with Checkpointer(tmp_path, CheckpointConfig(1, 1)) as checkpointer:
    checkpointer.save(fourth, 4)
    checkpointer.wait()
    restored = checkpointer.restore(abstract)
  assert same(restored, fourth)
  assert type(restored) is type(state)
  (straight, rows), (resumed, again) = run(state, 7), run(restored, 3)
  assert same(resumed, straight)
  for a, b in zip(rows[4:], again, strict=True):
    assert a.keys() == b.keys()
    assert all(a[name] == b[name] for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(('sizes', 'zero1', 'program'), [
  ((2, 2, 2), True, 0),
  ((2, 2, 2), True, 2),
  ((8, 1, 1), False, 2),
])  # fmt: skip
def test_every_mesh_distills_as_one_device(
  form, teacher, student, sizes, zero1, program
):
  _, given, state, run, _ = form
  run_spread, abstract = started(
    teacher, student, sizes, zero1, fresh=False, **given
  )[1:]
  spread = jax.tree.map(
    lambda leaf, like: jax.device_put(leaf, like.sharding), state, abstract
  )
  there, ours = run_spread(spread, 3, program)
  here, alone = run(state, 3, program)
  assert_close(ours, alone, rtol=2e-3, atol=1e-5)
  for name in ('params', 'ema', 'fake'):
    trees = getattr(there, name), getattr(here, name)
    assert_close(*trees, rtol=1e-3, atol=2e-3, err_msg=name)


def test_the_teacher_stays_as_it_is(form):
  _, _, state, run, _ = form
  before = model.fingerprint(run.teacher)
  run(state, 3)
  assert model.fingerprint(run.teacher) == before


def test_a_step_that_is_not_finite_changes_nothing(form):
  _, _, state, run, _ = form
  params = {**state.params, 'position': state.params['position'] * np.nan}
  broken = dataclasses.replace(state, params=params)
  after, rows = run(broken, 2, program=2)
  assert [int(row['bad_steps']) for row in rows] == [1, 2]
  for name in ('ema', 'opt_state', 'fake', 'fake_opt_state'):
    assert same(getattr(after, name), getattr(state, name)), name


NO_FAKE = {'guidance': 'cfg:2', 'fake_updates': 5, 'measured': (0.1, 0.8)}


def test_without_a_fake_every_step_is_the_students(teacher, student):
  _, run, abstract = started(
    teacher, student, fresh=False, regularizer='none', **NO_FAKE
  )
  assert abstract.fake == {}
  for n in (0, 1):
    advance = functools.partial(run.advance, n)
    _, metrics = jax.eval_shape(advance, abstract, {}, KEY)
    assert 'loss/student' in metrics


@pytest.mark.slow
@pytest.mark.parametrize('regularizer', ['none', 'mean_variance'])
def test_a_student_learns_without_a_fake(teacher, student, regularizer):
  state, run, _ = started(teacher, student, regularizer=regularizer, **NO_FAKE)
  after, rows = run(state, 2)
  assert all(np.isfinite(row['loss/student']) for row in rows)
  assert not same(after.params, state.params)


def test_low_rank_changes_are_merged_into_the_projection(teacher):
  changes = lora.init(TEACHER, 4, KEY)
  assert same(lora.apply(teacher, changes, 2.0), teacher)
  moved = jax.tree.map(lambda leaf: leaf + 0.1, changes)
  kernel = teacher['blocks']['attention']['qkv']['kernel']
  found = lora.apply(teacher, moved, 2.0)['blocks']['attention']['qkv']
  change = np.asarray(found['kernel'] - kernel)
  q, k, v = np.split(change, 3, axis=-1)
  assert not k.any()
  before = dict(zip('qkv', np.split(kernel, 3, axis=-1), strict=True))
  for part, change in (('q', q), ('v', v)):
    down, up = (moved['lora'][part][name] for name in ('down', 'up'))
    expected = 2 * before[part] @ down @ up
    np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-5)
    assert np.linalg.matrix_rank(change[0], tol=1e-4) <= 4


def test_heads_are_drawn_anew_as_often_as_asked():
  old = discriminator.init(TEACHER, 3, KEY)
  new = discriminator.init(TEACHER, 3, jax.random.key(1))
  assert same(discriminator.reset(old, new, KEY, 0.0), old)
  assert same(discriminator.reset(old, new, KEY, 1.0), new)

  @jax.vmap
  def reset(key):
    return discriminator.reset(old, new, key, 0.25)['fc1']['kernel']

  drawn = np.asarray(jax.jit(reset)(jax.random.split(KEY, 100)))
  fresh = (drawn == new['fc1']['kernel']).all((2, 3))
  assert 0.15 < fresh.mean() < 0.35
  assert 0 < fresh.any(1).mean() < 1  # Each head is reset independently.


@pytest.mark.slow
def test_discriminator_learns_to_tell(teacher):
  """The heads learn to separate fixed real and generated hidden states."""
  heads = discriminator.init(TEACHER, 2, KEY)
  states = [jax.random.normal(jax.random.key(n), (8, 4, 16)) for n in (1, 2)]
  states[1] = states[1] + jnp.arange(16) / 4
  real, generated = ([state, state] for state in states)

  def loss(heads):
    on_real = discriminator.logits(heads, real)
    on_generated = discriminator.logits(heads, generated)
    return (jax.nn.softplus(-on_real) + jax.nn.softplus(on_generated)).mean()

  gradient = jax.jit(jax.grad(loss))
  for _ in range(30):
    grads = gradient(heads)
    heads = jax.tree.map(lambda p, g: p - 0.3 * g, heads, grads)
  assert loss(heads) < 0.4
  assert discriminator.logits(heads, real).shape == (2, 8)
  assert discriminator.default_blocks(12) == (4, 8, 12)
  assert discriminator.default_blocks(1) == (1,)


def test_a_rollout_is_what_the_sampler_does(student):
  """`roll_out` equals the sampler's Euler integration of the same noise."""
  distillation = make_distillation(solver='euler')
  denoiser = model.bind(distillation.student, student)
  reached = jax.jit(distillation.roll_out)(denoiser, LABEL, 4, KEY)
  start = distillation.noise(jax.random.fold_in(KEY, 5))

  def evaluate(x, t, n, memory):
    return Evaluation(denoiser(x, jnp.full(8, t), LABEL).velocity)

  expected, _ = jax.jit(sampler.integrate, static_argnums=(0, 1))(
    evaluate, Euler(), start, distillation.grid
  )
  np.testing.assert_allclose(reached, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_teacher_follows_its_own_trajectory(teacher):
  """A copy of the teacher has loss 0 with one substep and no guidance."""
  network = {key: teacher[key] for key in teacher if key != 'tap_heads'}

  def loss(**given):
    distillation = make_distillation(
      method='teacher_trajectory', solver='euler', **given
    )
    return jax.jit(distillation.trajectory_loss)(network, teacher, LABEL, KEY)

  assert loss(substeps=1) < 1e-10
  assert loss(substeps=8) > 1e-5
  assert loss(substeps=1, guidance='cfg:2') > 1e-5


@pytest.mark.slow
def test_gradient_crosses_one_step_alone(student, teacher):
  """The gradient flows through the last prediction only."""
  distillation = make_distillation(solver='euler', branch='low')

  @jax.jit
  def visited(params):
    visit = functools.partial(distillation.visit, label=LABEL, key=KEY)
    return jax.jvp(visit, (params,), (params,))

  visit, tangents = visited(student)
  assert not jnp.any(tangents.z)
  assert jnp.any(tangents.v)
  assert visit.k >= 2
