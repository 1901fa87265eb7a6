"""Tests FDG, which scales two frequency bands, and the method `rescale`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_close
from toy import LABEL, NULL, TOY, Toy, X, close, guided, over_images, plain

from core.errors import InputError
from dit.types import DenoiserOutput
from guidance import label
from guidance.parse import parse


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Still(Toy):
  """A network that always predicts velocity 0.

  Seeds must be unique, because JAX equates dataclasses with equal fields.
  """

  def __call__(self, x, t, label, sub=None):
    return DenoiserOutput(0 * x)


bands = jax.jit(label.bands)
WIDE = jax.random.normal(jax.random.key(7), (3, 8, 12, 3))


@pytest.mark.parametrize('scale', [0.0, 2.5])
def test_fdg_with_equal_scales_is_cfg(scale):
  ours = guided(f'fdg:{scale}:low={scale}')
  close(ours, guided(f'cfg:{scale}'))
  assert jnp.abs(ours - guided(f'fdg:{scale}:low=1.5')).max() > 1e-2


def test_fdg_scales_each_band():
  strong, null = (plain(own, x=WIDE) for own in (LABEL, NULL))
  low, high = bands(strong - null)
  close(guided('fdg:4:low=1.5', x=WIDE), strong + 0.5 * low + 3 * high)
  # The default scale of low frequencies is 1, so low frequencies stay unguided.
  close(guided('fdg:4', x=WIDE), strong + 3 * high)
  close(guided('fdg:1:low=1.5', x=WIDE), strong + 0.5 * low)


def test_fdg_follows_one_schedule_and_interval():
  text = 'fdg:4:low=1.5:schedule=linear@0-0.6'
  strong, null = (plain(own, 0.25) for own in (LABEL, NULL))
  low, high = bands(strong - null)
  close(guided(text, 0.25), strong + 1.5 * (0.5 * low + 3 * high))
  np.testing.assert_array_equal(guided(text, 0.7), plain(t=0.7))


@pytest.mark.parametrize('x', [X, WIDE], ids=['6 x 6', '8 x 12'])
def test_bands_sum_to_the_whole(x):
  low, high = bands(x)
  np.testing.assert_allclose(low + high, x, atol=1e-6)
  assert jnp.abs(low).max() > 0.1 and jnp.abs(high).max() > 0.1


def test_a_constant_image_is_low():
  x = jnp.broadcast_to(jnp.asarray([1.5, -2.0, 0.25]), (2, 8, 12, 3))
  assert_close(bands(x), (x, jnp.zeros_like(x)), atol=1e-6)


def test_a_chequerboard_is_high():
  sign = jnp.asarray((-1.0) ** np.add.outer(np.arange(8), np.arange(12)))
  x = jnp.broadcast_to(sign[None, :, :, None], (1, 8, 12, 1))
  assert_close(bands(x), (jnp.zeros_like(x), x), atol=1e-6)


def test_bands_are_linear_and_apart_for_images_and_channels():
  low, _ = bands(WIDE)
  other = WIDE[::-1]
  close(bands(2 * WIDE - other)[0], 2 * low - bands(other)[0])
  close(bands(WIDE[1:2, ..., 2:])[0], low[1:2, ..., 2:])


@pytest.mark.parametrize('sides', [(4, 4), (7, 8), (8, 9), (2, 16)])
def test_images_that_cannot_be_halved(sides):
  guidance = parse('s2:2,fdg:2')
  guidance.check(TOY, (6, 8, 3))
  with pytest.raises(InputError, match=f'latents are {sides[0]} x {sides[1]}'):
    guidance.check(TOY, (*sides, 3))


def test_rescale_zero_is_cfg():
  np.testing.assert_array_equal(guided('cfg:7.5,rescale:0'), guided('cfg:7.5'))


@pytest.mark.parametrize('phi', [0.7, 1.0])
@pytest.mark.parametrize('text', ['cfg:7.5', 'ig:1.5,cfg:4,slg:2:blocks=2'])
def test_rescale_in_numpy(phi, text):
  def rule(guided, strong):
    rescaled = guided * strong.std() / guided.std()
    return phi * rescaled + (1 - phi) * guided

  strong = guided('ig:1.5') if parse(text).internal else plain()
  expected = over_images(rule, guided(text), strong)
  ours = guided(f'{text},rescale:{phi}')
  close(ours, expected)
  assert jnp.abs(ours - guided(text)).max() > 0.1
  if phi == 1:
    stds = (jnp.std(v, axis=(1, 2, 3)) for v in (ours, strong))
    np.testing.assert_allclose(*stds, rtol=1e-5)


def test_rescale_where_the_methods_are_off_changes_nothing():
  for text in ('cfg:1,rescale:0.7', 'cfg:4@0-0.3,rescale:0.7'):
    np.testing.assert_array_equal(guided(text), plain())


@pytest.mark.parametrize('text', ['rescale:0.7', 'ig:2,rescale:0'])
def test_rescale_needs_a_method(text):
  with pytest.raises(InputError, match='rescale has nothing to rescale; add'):
    parse(text)


def test_rescale_of_a_still_field():
  ours = guided('cfg:4,rescale:0.7', network=Still(seed=-1))
  np.testing.assert_array_equal(ours, jnp.zeros_like(X))
