"""The optimizer equals AdamW in numpy. Schedules have the right values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dit import model
from dit.weights import convert
from train.optimizer import OptimizerConfig, make_optimizer, make_schedule

CONFIG = OptimizerConfig(
  lr=0.1, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip=0.0,
  warmup_images=0, schedule='constant', end_fraction=0.0,
)  # fmt: skip


def change(**kwargs):
  return dataclasses.replace(CONFIG, **kwargs)


def rates(steps, **kwargs):
  schedule = make_schedule(change(**kwargs), batch_size=10, total_images=150)
  return np.asarray([schedule(step) for step in range(steps)])


@pytest.mark.parametrize('schedule', ['constant', 'cosine'])
def test_warm_up_is_linear_and_starts_at_its_first_part(schedule):
  values = rates(6, warmup_images=50, schedule=schedule)
  expected = [0.02, 0.04, 0.06, 0.08, 0.1, 0.1]
  np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize('images', [0, 9, 10])
def test_short_warm_up_starts_at_the_peak(images):
  np.testing.assert_allclose(rates(3, warmup_images=images), 0.1, rtol=1e-6)


def test_constant_stays():
  np.testing.assert_allclose(rates(100)[50:], 0.1, rtol=1e-6)


@pytest.mark.parametrize('warmup', [0, 50])
@pytest.mark.parametrize('end', [0.0, 0.05, 1.0])
def test_cosine_falls_to_its_end_fraction(warmup, end):
  values = rates(30, warmup_images=warmup, schedule='cosine', end_fraction=end)
  start = warmup // 10
  part = (np.arange(start, 16) - start) / (15 - start)
  expected = 0.1 * (end + (1 - end) * (1 + np.cos(np.pi * part)) / 2)
  np.testing.assert_allclose(values[start:16], expected, rtol=1e-5, atol=1e-9)
  np.testing.assert_allclose(values[15:], 0.1 * end, rtol=1e-5, atol=1e-9)


def adamw(config, params, gradients):
  """Runs the paper's AdamW in float64. Only 'kernel' has weight decay."""
  params = {name: np.float64(value) for name, value in params.items()}
  m = {name: 0.0 for name in params}
  v = {name: 0.0 for name in params}
  for n, gradient in enumerate(gradients, 1):
    norm = np.sqrt(sum(np.square(g).sum() for g in gradient.values()))
    factor = min(1, config.clip / norm) if config.clip else 1
    for name, g in gradient.items():
      g = factor * np.float64(g)
      m[name] = config.b1 * m[name] + (1 - config.b1) * g
      v[name] = config.b2 * v[name] + (1 - config.b2) * g**2
      update = (m[name] / (1 - config.b1**n)) / (
        np.sqrt(v[name] / (1 - config.b2**n)) + config.eps
      )
      if name == 'kernel':
        update = update + config.weight_decay * params[name]
      params[name] = params[name] - config.lr * update
  return params


@pytest.mark.parametrize('weight_decay', [0.0, 0.3])
@pytest.mark.parametrize('clip', [0.0, 1.0])
def test_is_clipped_adamw(clip, weight_decay):
  config = change(clip=clip, weight_decay=weight_decay)
  rng = np.random.default_rng(0)
  shapes = {'kernel': (3, 4), 'bias': (4,), 'label_embed': (5, 3)}

  def draw(scale):
    return {
      name: np.float32(scale * rng.normal(size=shape))
      for name, shape in shapes.items()
    }

  params = draw(1)
  # Norms are far above or far below the limit, so clipping has an effect.
  gradients = [draw(20), draw(0.05), draw(3)]
  optimizer = make_optimizer(config, optax.constant_schedule(config.lr))
  ours = jax.tree.map(jnp.asarray, params)
  state = optimizer.init(ours)
  for gradient in gradients:
    updates, state = optimizer.update(gradient, state, ours)
    ours = optax.apply_updates(ours, updates)
  expected = adamw(config, params, gradients)
  for name in shapes:
    np.testing.assert_allclose(ours[name], expected[name], rtol=2e-5)


def test_decay_touches_kernels_only(config):
  params = jax.tree.map(
    lambda leaf: np.ones(leaf.shape, np.float32), model.shapes(config)
  )
  settings = change(weight_decay=0.3)
  optimizer = make_optimizer(settings, optax.constant_schedule(0.1))
  zeros = jax.tree.map(np.zeros_like, params)
  state = jax.jit(optimizer.init)(params)
  updates, _ = jax.jit(optimizer.update)(zeros, state, params)
  moved = {path: float(np.abs(leaf).max())
           for path, leaf in convert.flatten(updates).items()}  # fmt: skip
  for path, value in moved.items():
    expected = 0.03 if path.split('/')[-1] == 'kernel' else 0
    np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=path)
  assert sum(value > 0 for value in moved.values()) >= 6
  # Biases, positions and label embeddings must have no weight decay.
  assert {'position', 'label_embed'} <= {p for p, v in moved.items() if not v}
