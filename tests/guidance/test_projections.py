"""APG, CFG-Zero* and TCFG match numpy code of the formulas in the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import (
  LABEL,
  NULL,
  TOY,
  Space,
  Toy,
  X,
  close,
  draws,
  guided,
  over_images,
  plain,
  predict,
)

from dit.path import path_named
from guidance import ClassifierFreeZero, Scale, Tangential, parse
from guidance.base import Contrast

SCALE = 3.5


def pair(t, x=X, **options):
  return (plain(label, t, x=x, **options) for label in (LABEL, NULL))


@pytest.mark.parametrize('path', ['linear', 'cosine', 'vp'])
@pytest.mark.parametrize('t', [0.1, 0.6, 1.0])
def test_apg_without_its_parts_is_cfg(path, t):
  path = path_named(path)
  ours = guided('apg:3.5:eta=1:norm=0:momentum=0', t, path=path)
  np.testing.assert_array_equal(ours, guided('cfg:3.5', t, path=path))
  for option in ('eta=0', 'eta=1:norm=0.1'):
    other = guided(f'apg:3.5:{option}', t, path=path)
    assert jnp.abs(other - ours).max() > 1e-2


class Apg:
  """The published APG code in numpy, for predictions of x0."""

  def __init__(self, eta, norm, momentum):
    self.eta, self.norm, self.momentum = eta, norm, momentum
    self.average = 0.0

  def __call__(self, cond, uncond, scale):
    self.average = cond - uncond + self.momentum * self.average

    def project(diff, cond):
      if self.norm:
        diff = diff * min(1.0, self.norm / np.linalg.norm(diff))
      unit = cond / np.linalg.norm(cond)
      parallel = (diff @ unit) * unit
      return diff - parallel + self.eta * parallel

    return cond + (scale - 1) * over_images(project, self.average, cond)


@pytest.mark.parametrize(('path', 'eta', 'norm', 'momentum'), [
  ('linear', 0.0, 0.0, 0.0), ('linear', 1.0, 2.0, 0.0),
  ('linear', 0.0, 3.0, -0.5), ('cosine', 0.3, 0.0, 0.0),
  ('cosine', 1.0, 0.0, -0.75), ('cosine', 0.25, 1.0, 0.5),
])  # fmt: skip
def test_apg_over_several_steps(path, eta, norm, momentum):
  guidance = parse(f'apg:3.5:eta={eta}:norm={norm}:momentum={momentum}')
  theirs, memory, x = Apg(eta, norm, momentum), guidance.init(X), X
  shortened, differences = [], []
  for t in (1.0, 0.9, 0.65, 0.3, 0.05):
    out = predict(guidance, t, x=x, memory=memory, path=path_named(path))
    space = Space(path, t)
    cond, uncond = (space.split(x, v)[0] for v in pair(t, x))
    expected = space.from_x0(x, theirs(cond, uncond, SCALE))
    close(out.velocity, expected, atol=1e-4)
    lengths = np.linalg.norm(theirs.average.reshape(3, -1), axis=1)
    shortened += [length > norm for length in lengths]
    differences.append(np.abs(out.velocity - guided('cfg:3.5', t, x=x)).max())
    memory, x = out.memory, x - 0.1 * out.velocity
    if momentum:
      close(memory[0], theirs.average, atol=1e-4)
  assert max(differences) > 0.1
  assert any(shortened)


def test_apg_forgets_where_it_is_off():
  guidance = parse('apg:3:momentum=-0.5@0-0.8')
  first = predict(guidance, 0.7)
  assert jnp.abs(first.memory[0]).max() > 0.1
  on = predict(guidance, 0.6, memory=first.memory)
  off = predict(guidance, 0.9, memory=first.memory)
  np.testing.assert_array_equal(off.velocity, plain(t=0.9))
  np.testing.assert_array_equal(off.memory[0], jnp.zeros_like(X))
  again = predict(guidance, 0.6, memory=off.memory)
  fresh = predict(guidance, 0.6)
  np.testing.assert_array_equal(again.velocity, fresh.velocity)
  assert jnp.abs(on.velocity - fresh.velocity).max() > 1e-2


def test_apg_at_the_data():
  # At t = 0, all predictions of x0 are equal to x, so APG has no effect.
  guidance = parse('apg:3:momentum=-0.5:norm=2')
  out = predict(guidance, 0.0, memory=(jnp.ones_like(X),))
  close(out.velocity, guided('apg:3', 0.0), atol=1e-5)
  np.testing.assert_array_equal(out.memory[0], jnp.zeros_like(X))


def test_cfg_zero_in_numpy():
  def rule(c, u):
    s = c @ u / (u @ u + 1e-8)
    return s * u + SCALE * (c - s * u)

  strong, null = pair(0.5)
  expected = over_images(rule, strong, null)
  close(guided('cfg_zero:3.5:zero_steps=0'), expected, atol=1e-4)
  assert np.abs(expected - guided('cfg:3.5')).max() > 1e-2


def test_cfg_zero_of_equal_predictions():
  # If c and u are equal, the factor s is 1, so CFG-Zero* adds c - s u = 0.
  alike = Toy(labels=False)
  ours = guided('cfg_zero:50:zero_steps=0', network=alike)
  close(ours, plain(network=alike), atol=1e-4)


def test_cfg_zero_divides_by_no_zero():
  term, zero = ClassifierFreeZero(Scale(2.0)), jnp.zeros_like(X)
  at = Contrast(
    X, zero, jnp.float32(2), X, jnp.float32(0.5), path_named('linear')
  )
  push, _ = term.push(at)
  np.testing.assert_array_equal(push, X)


def tangential(strong, null, x, space, scale):
  """Applies TCFG to noise predictions. Uses a singular value decomposition."""

  def rule(c, u):
    v = np.linalg.svd(np.stack([c, u]), full_matrices=False)[2][0]
    u = (u @ v) * v
    return u + scale * (c - u)

  c, u = (space.split(x, velocity)[1] for velocity in (strong, null))
  return space.from_noise(x, over_images(rule, c, u))


@pytest.mark.parametrize('path', ['linear', 'cosine'])
@pytest.mark.parametrize('t', [0.02, 0.5, 0.9, 0.99, 0.999])
def test_tcfg_of_the_network(path, t):
  ours = guided('tcfg:3.5', t, path=path_named(path))
  expected = tangential(*pair(t), X, Space(path, t), SCALE)
  close(ours, expected, rtol=1e-4, atol=2e-4)
  assert np.abs(expected - guided('cfg:3.5', t)).max() > 1e-3


def push(strong, null, x, t, path='linear', scale=SCALE):
  t, term = jnp.float32(t), Tangential(Scale(scale))
  at = Contrast(strong, null, jnp.float32(scale), x, t, path_named(path))
  return strong + term.push(at)[0]


KINDS = {
  'random': lambda a, b: (a, b),
  'close': lambda a, b: (a, a + 0.01 * b),
  'opposed': lambda a, b: (a, -0.9 * a + 0.1 * b),
  'nearly opposed': lambda a, b: (a, -a + 0.01 * b),
  'of other sizes': lambda a, b: (a, 30 * b),
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('path', 't'), [('linear', 0.3), ('cosine', 0.8)])
def test_tcfg_of_any_two_noises(kind, path, t):
  keys = jax.random.split(jax.random.key(3))
  c, u = KINDS[kind](*(jax.random.normal(key, X.shape) for key in keys))
  space = Space(path, t)
  strong, null = (jnp.float32(space.from_noise(X, noise)) for noise in (c, u))
  expected = tangential(strong, null, X, space, SCALE)
  ours = push(strong, null, X, t, path)
  close(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize('path', ['linear', 'cosine'])
def test_tcfg_at_the_noise(path):
  # At t = 1, both predicted noises are x. The expected value uses alpha = 1e-6.
  ours = guided('tcfg:3.5', 1.0, path=path_named(path))
  strong, null = (np.asarray(v, np.float64) for v in pair(1.0))
  space = Space(path, 1.0)
  space.alpha = 1e-6
  expected = tangential(strong, null, X, space, SCALE)
  close(ours, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('factor', [0.5, 1.0, -2.0])
def test_tcfg_of_parallel_noises_is_cfg(factor):
  # u is parallel to the singular vector, so TCFG does not change u.
  space, c = Space('linear', 0.4), jax.random.normal(jax.random.key(3), X.shape)
  noises = c, factor * c
  strong, null = (jnp.float32(space.from_noise(X, noise)) for noise in noises)
  expected = strong + (SCALE - 1) * (strong - null)
  close(push(strong, null, X, 0.4), expected, rtol=1e-4, atol=1e-3)


def test_tcfg_of_nothing_is_nothing():
  zero = jnp.zeros_like(X)
  np.testing.assert_array_equal(push(zero, zero, zero, 0.4), zero)


def test_a_step_draws_nothing_for_them():
  for text in ('cfg:2', 'cfg++:0.1', 'cfg_zero:2', 'apg:2', 'tcfg:2', 'fdg:2'):
    assert draws(parse(text), TOY) == (None,)
