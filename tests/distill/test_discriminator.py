import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from students import TEACHER, make_distillation

from distill import discriminator
from distill.objective import Distillation
from dit import model

KEY = jax.random.key(0)
LABEL = jnp.arange(8) % 3
SIZE = 512
RENOISE = pytest.param('renoise', marks=pytest.mark.slow)


def record_calls(monkeypatch, loss):
  asked = []

  def denoiser(x, level, label, points=()):
    asked.append((x, level, label))
    hidden = [jnp.zeros((len(x), 4, TEACHER.width))] * len(points)
    return types.SimpleNamespace(velocity=x, hidden=hidden)

  zeros = jnp.zeros((SIZE, *TEACHER.latent_shape))
  monkeypatch.setattr(Distillation, 'fake', lambda *_: denoiser)
  monkeypatch.setattr(Distillation, 'samples', lambda *_: (zeros, zeros))

  @jax.jit
  def calls(key):
    loss(zeros, key)
    return asked

  return calls(KEY)


def test_inputs_have_levels_and_noise_of_their_own(monkeypatch):
  distillation = make_distillation(batch_size=SIZE, gan_weight=0.1)
  heads = discriminator.init(TEACHER, len(distillation.blocks), KEY)

  def loss(zeros, key):
    real = zeros, jnp.full(SIZE, 2)
    label = jnp.zeros(SIZE, int)
    distillation.fake_loss({'heads': heads}, {}, {}, label, real, key)

  _, on_real, on_generated = record_calls(monkeypatch, loss)
  for noised, level, _ in (on_real, on_generated):
    assert level.min() < 0.01 and level.max() > 0.99
    np.testing.assert_allclose(level.mean(), 0.5, atol=0.05)
    # The images are zeros, so the ratio of `noised` and `level` is the noise.
    noise = np.asarray(noised) / np.asarray(level)[:, None, None, None]
    np.testing.assert_allclose(noise.std(), 1, atol=0.05)
  assert abs(np.corrcoef(on_real[1], on_generated[1])[0, 1]) < 0.15
  noise = [np.ravel(x) for x, *_ in (on_real, on_generated)]
  assert abs(np.corrcoef(noise)[0, 1]) < 0.05
  assert (on_real[2] == 2).all() and (on_generated[2] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize('query', ['student_trajectory', RENOISE])
def test_generated_input_is_what_the_adversarial_term_moves(query, student):
  """The discriminator gets x0 predicted at a random step, not the last x0."""
  distillation = make_distillation(
    query=query, solver='euler', gan_weight=0.1, step_per_image=True
  )
  learned, shown = jax.jit(distillation.samples)(student, LABEL, KEY)
  if query == 'renoise':
    np.testing.assert_array_equal(shown, learned)
    return
  denoiser = model.bind(distillation.student, student)
  k = distillation.draw_step(jax.random.fold_in(KEY, 6))
  assert len(set(k.tolist())) > 1

  @jax.jit
  def expected(k):
    z = distillation.roll_out(denoiser, LABEL, k, KEY)
    t = distillation.grid[k]
    velocity = denoiser(z, t, LABEL).velocity
    return distillation.path.x0_from_velocity(z, velocity, t)

  np.testing.assert_allclose(shown, expected(k), rtol=1e-3, atol=1e-4)
  # An Euler step to t = 0 ends at the x0 predicted at the start of the step.
  last = expected(jnp.full(8, 3))
  np.testing.assert_allclose(learned, last, rtol=1e-3, atol=1e-4)
  assert jnp.abs(shown - learned).max() > 0.1
