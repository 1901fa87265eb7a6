"""Guidance and the sampler accept any condition, such as a prompt."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import static
from toy import TOY

from dit.path import Linear
from guidance import parse
from sample import sampler
from sample.grid import make_grid
from sample.registry import make_solver

LABEL = jnp.asarray([4, 0, 7])
HOW = sampler.Integration(make_solver('heun', Linear()), (6, 6, 3))
TEXTS = ('ig:1.5,cfg:1.7,s2:1.4', 'icg:2')


def encode(label):
  """Returns a prompt of four tokens. The masked sum of tokens is the label."""
  tokens = jnp.stack([label, 0 * label + 9, label, 0 * label - 3], axis=1)
  mask = jnp.asarray([0.25, 0, 0.75, 0], jnp.float32)
  return {
    'tokens': tokens.astype(jnp.float32)[..., None] * jnp.ones(2),
    'mask': jnp.broadcast_to(mask, tokens.shape),
  }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompted:
  depth: int = static(TOY.depth)
  num_taps: int = static(1)
  num_classes: int = static(0)
  null_label: bool = static(True)
  learned_variance: bool = static(False)
  multiply_adds: int = static(100)

  def __call__(self, x, t, prompt, sub=None):
    tokens = prompt['tokens'].mean(-1)
    label = jnp.rint((tokens * prompt['mask']).sum(1)).astype(LABEL.dtype)
    return TOY(x, t, label, sub)

  def null_condition(self, condition):
    return encode(jnp.full(len(condition['mask']), 10))

  def random_condition(self, condition, keys):
    return encode(TOY.random_condition(condition, keys))


def drawn(denoiser, condition, text):
  grid = jnp.asarray(make_grid(4))
  inputs = denoiser, parse(text), condition, jnp.arange(3), grid, 7, HOW
  return sampler.sample(*inputs)[0]


@pytest.mark.slow
@pytest.mark.parametrize('text', TEXTS)
def test_prompts_that_stand_for_labels_give_the_images_of_labels(text):
  ours = drawn(Prompted(), encode(LABEL), text)
  np.testing.assert_array_equal(ours, drawn(TOY, LABEL, text))
  assert jnp.abs(ours - drawn(Prompted(), encode(LABEL + 1), text)).max() > 0.1
  prompted, labeled = (
    sampler.nfe(parse(text), denoiser, make_grid(4), 7, HOW)
    for denoiser in (Prompted(), TOY)
  )
  assert prompted == labeled  # The condition does not affect NFE.
