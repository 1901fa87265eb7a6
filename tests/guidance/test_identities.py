"""Tests methods at scale 1, and guidance of x0, noise and score predictions."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import LABEL, TOY, Toy, X, close, draws, guided, plain

from dit.path import path_named
from dit.types import Denoiser
from guidance import Guidance, Step, parse
from guidance.parse import METHODS, with_guide

GUIDE = Toy(seed=5, depth=2)


def read(text, guide=GUIDE):
  return with_guide(parse(text), guide)


# The options of every method in these tests.
OPTIONS = {
  'ig': '', 'cfg': '', 'cfg++': '', 'cfg_zero': '',
  'apg': ':norm=2:momentum=-0.5', 'tcfg': '', 'fdg': ':low=1', 'icg': '',
  's2': ':masks=2', 'slg': ':blocks=2', 'auto': '',
}  # fmt: skip


def on_late(name, scale):
  """Returns a method for 0.6 <= t <= 1. All scales share a compiled program."""
  return read(f'{name}:{float(scale)}{OPTIONS[name]}@0.6-1')


def test_every_method_is_here():
  assert OPTIONS.keys() == METHODS.keys()


def test_no_two_methods_are_one_program():
  """No two methods have equal pytree structures, so `jit` compiles each one."""
  trees = [jax.tree.structure(on_late(name, 0.5)) for name in OPTIONS]
  assert all(a != b for a, b in itertools.combinations(trees, 2))
  halved = jax.tree.map(lambda x: x / 2, parse('cfg:3')).terms[0].scale
  assert jax.tree.leaves(halved) == [1.5, 0, 0.5]
  assert parse('cfg:3').methods == ('cfg',)


@pytest.mark.parametrize('name', OPTIONS)
def test_off_is_the_conditional_model_and_images_do_not_mix(name):
  """A scale of 1 or a time outside the interval gives the unguided model."""
  # No scale turns CFG++ off at every t, so CFG++ is tested only at t = 0.5.
  guidance = on_late(name, 0.5 if name == 'cfg++' else 3)
  for t, others in ((0.5, guidance), (0.7, on_late(name, 1))):
    off, t = (guidance, 0.5) if name == 'cfg++' else (others, t)
    np.testing.assert_array_equal(guided(off, t), plain(t=t))
    step = Step(jnp.float32(t), draws(off))
    assert off.passes(TOY, step) == 1
  together = guided(guidance, 0.7)
  assert jnp.abs(together - plain(t=0.7)).max() > 0.1
  if name != 'ig':
    step = Step(jnp.float32(0.7), draws(guidance))
    assert guidance.passes(TOY, step) > 1
  # Changes of images 0 and 2 must not affect image 1.
  others = X.at[0].multiply(9).at[2].add(3)
  alone = guided(guidance, 0.7, x=others, label=LABEL.at[0].set(2))
  close(together[1], alone[1], atol=1e-6)
  assert jnp.abs(together - alone)[0].max() > 0.1


@pytest.mark.parametrize('text', [
  'cfg:1,rescale:0.7', 'ig:1,cfg:1,s2:1,rescale:0.7',
  pytest.param('ig:1,apg:1:momentum=-0.5,s2:1,slg:1:blocks=2,rescale:0.7',
               marks=pytest.mark.slow),
])  # fmt: skip
def test_scale_one_of_several_is_the_conditional_model(text):
  np.testing.assert_array_equal(guided(read(text)), plain())


def test_rescaling_is_of_each_image():
  others = X.at[0].multiply(9).at[2].add(3)
  together, alone = (guided('cfg:3,rescale:0.7', x=x) for x in (X, others))
  close(together[1], alone[1], atol=1e-6)
  assert jnp.abs(together - alone)[0].max() > 0.1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Speaking:
  network: Denoiser
  path: str = dataclasses.field(metadata={'static': True})
  space: str = dataclasses.field(metadata={'static': True})

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return getattr(self.network, name)

  def __call__(self, x, t, label, sub=None):
    out = self.network(x, t, label, sub)
    return self._translate(out, x, t, sub.every if sub is not None else 1)

  def _translate(self, out, x, t, every):
    path = path_named(self.path)
    of = getattr(path, f'{self.space}_from_velocity')
    return dataclasses.replace(
      out,
      velocity=of(x, out.velocity, t),
      intermediate=tuple(of(x, v, t) for v in out.intermediate),
      sub=tuple(self._translate(s, x[::every], t[::every], 1) for s in out.sub),
    )


def in_space(text, space, path, t):
  """Returns velocities after guidance of x0, noise or score predictions."""
  network, guide = (Speaking(n, path, space) for n in (TOY, GUIDE))
  path = path_named(path)
  out = guided(read(text, guide), t, network=network, path=path)
  return getattr(path, f'velocity_from_{space}')(X, out, jnp.float32(t))


# A weighted sum with a total weight of 1 gives the same result in every space.
@pytest.mark.parametrize(('text', 'space', 'path'), [
  ('auto:2', 'noise', 'linear'), ('icg:2.5,s2:1.6', 'x0', 'cosine'),
  ('fdg:4:low=1.5,slg:1.6:blocks=1', 'score', 'vp'),
  ('ig:1.4,cfg:2.5:schedule=linear', 'x0', 'linear'),
])  # fmt: skip
def test_affine_rules_are_the_same_in_every_space(text, space, path):
  ours = guided(read(text), 0.6, path=path_named(path))
  close(in_space(text, space, path, 0.6), ours, rtol=1e-4, atol=1e-3)
  assert jnp.abs(ours - plain(t=0.6)).max() > 0.1


@pytest.mark.parametrize(
  'text', ['apg:2.5', 'cfg_zero:2.5', 'tcfg:2.5', 'cfg:4,rescale:0.7']
)
def test_other_rules_are_not(text):
  ours = guided(read(text), 0.6)
  assert jnp.abs(in_space(text, 'x0', 'linear', 0.6) - ours).max() > 0.01


def test_methods_add_up():
  parts = ['apg:3', 'slg:1.5:blocks=2', 'auto:2']
  together = guided(read(','.join(parts)))
  pushes = [guided(read(part)) - plain() for part in parts]
  close(together, plain() + sum(pushes), atol=1e-4)
  close(guided(read(','.join(parts[::-1]))), together, atol=1e-5)


def test_a_composition_without_methods_is_the_network():
  np.testing.assert_array_equal(guided(Guidance()), plain())
