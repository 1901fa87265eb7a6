"""What holds for every method: scale 1, and the space of the predictions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import LABEL, TOY, Toy, X, close, draws, guided, plain

from dit.path import path_named
from dit.types import Denoiser
from guidance import Guidance, Step, parse
from guidance.parse import METHODS, with_guide

pytestmark = pytest.mark.usefixtures('quick_compilation')
GUIDE = Toy(seed=5, depth=2)


def read(text, guide=GUIDE):
  return with_guide(parse(text), guide)


OFF = {
  'ig': 'ig:1',
  'cfg': 'cfg:1',
  'cfg++': 'cfg++:0.5@0.9-1',  # on everywhere inside its interval
  'cfg_zero': 'cfg_zero:1',
  'apg': 'apg:1:norm=2:momentum=-0.5',
  'tcfg': 'tcfg:1',
  'fdg': 'fdg:1:low=1',
  'icg': 'icg:1',
  's2': 's2:1:masks=2',
  'slg': 'slg:1:blocks=2',
  'auto': 'auto:1',
}


def test_every_method_is_here():
  assert OFF.keys() == METHODS.keys()


def test_no_two_methods_are_one_program():
  """As pytrees they differ, so that no jitted sampler is taken for another."""
  trees = [jax.tree.structure(read(text)) for text in OFF.values()]
  for k, tree in enumerate(trees):
    assert all(tree != other for other in trees[:k])
  (doubled,) = jax.tree.leaves(
    jax.tree.map(lambda x: 2 * x, parse('cfg:3')).terms[0].scale.value
  )
  assert doubled == 6 and parse('cfg:3').methods == ('cfg',)


@pytest.mark.parametrize('name', OFF)
@pytest.mark.parametrize('rest', ['', ',rescale:0.7'])
def test_scale_one_is_the_conditional_model(name, rest):
  if name == 'ig' and rest:
    rest = ',cfg:1' + rest
  guidance = read(OFF[name] + rest)
  np.testing.assert_array_equal(guided(guidance), plain())
  step = Step(jnp.float32(0.5), draws(guidance))
  assert guidance.passes(TOY, step) == 1


@pytest.mark.parametrize('name', sorted(set(OFF) - {'cfg++', 'ig'}))
def test_outside_the_interval_is_the_conditional_model(name):
  value = '3' if name != 'slg' else '3:blocks=2'
  for t, on in ((0.5, False), (0.7, True)):
    guidance = read(f'{name}:{value}@0.6-1')
    difference = jnp.abs(guided(guidance, t) - plain(t=t)).max()
    assert difference > 0.1 if on else difference == 0
    step = Step(jnp.float32(t), draws(guidance))
    assert (guidance.passes(TOY, step) > 1) == on


# Rules whose weights sum to 1 are the same in every space.
AFFINE = [
  'ig:1.4,cfg:2.5:schedule=linear',
  'icg:2.5,s2:1.6',
  'fdg:4:low=1.5,slg:1.6:blocks=1',
  'auto:2',
]
OTHERS = ['apg:2.5', 'cfg_zero:2.5', 'tcfg:2.5', 'cfg:4,rescale:0.7']
SPACES = ('noise', 'x0', 'score')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Speaking:
  """A network that gives its predictions in another space."""

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
  """Guided in the space, and back to velocities."""
  network, guide = (Speaking(n, path, space) for n in (TOY, GUIDE))
  out = guided(read(text, guide), t, network=network, path=path_named(path))
  return getattr(path_named(path), f'velocity_from_{space}')(
    X, out, jnp.float32(t)
  )


@pytest.mark.parametrize('text', AFFINE)
def test_affine_rules_are_the_same_in_every_space(text):
  for space, path in zip(SPACES, ('linear', 'cosine', 'vp'), strict=True):
    ours = guided(read(text), 0.6, path=path_named(path))
    close(in_space(text, space, path, 0.6), ours, rtol=1e-4, atol=1e-3)
    assert jnp.abs(ours - plain(t=0.6)).max() > 0.1


@pytest.mark.parametrize('text', OTHERS)
def test_other_rules_are_not(text):
  ours = guided(read(text), 0.6)
  assert jnp.abs(in_space(text, 'x0', 'linear', 0.6) - ours).max() > 0.01


def test_methods_add_up():
  """Of one conditional prediction, whatever their order in the text."""
  parts = ['apg:3', 'slg:1.5:blocks=2', 'auto:2']
  together = guided(read(','.join(parts)))
  pushes = [guided(read(part)) - plain() for part in parts]
  close(together, plain() + sum(pushes), atol=1e-4)
  close(guided(read(','.join(parts[::-1]))), together, atol=1e-5)


@pytest.mark.parametrize(
  'text', ['apg:3:norm=1', 'cfg_zero:3', 'tcfg:3', 'fdg:3', 'cfg:3,rescale:0.7']
)
def test_images_do_not_mix(text):
  # Norms, products and bands are those of each image.
  guidance, others = read(text), X.at[0].multiply(9).at[2].add(3)
  together = guided(guidance)
  alone = guided(guidance, x=others, label=LABEL.at[0].set(2))
  close(together[1], alone[1], atol=1e-6)
  assert jnp.abs(together - alone)[0].max() > 0.1


def test_a_composition_without_methods_is_the_network():
  np.testing.assert_array_equal(guided(Guidance()), plain())
