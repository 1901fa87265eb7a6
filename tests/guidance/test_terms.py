"""The blocks that S2 draws, and intervals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit.types import InputError
from guidance import ClassifierFree, Scale, StochasticSelf


def masks(depth, skip=0, count=64):
  keys = jax.random.split(jax.random.key(0), count)
  term = StochasticSelf(Scale(1.5), skip)
  drawn = jax.vmap(lambda key: term.keep(depth, key))(keys)
  assert drawn.shape == (count, 1, depth) and drawn.dtype == bool
  return np.asarray(drawn[:, 0])


@pytest.mark.parametrize(('depth', 'skip'), [(3, 1), (5, 3), (12, 2), (28, 4)])
def test_exactly_skip_blocks_are_skipped(depth, skip):
  drawn = masks(depth, skip)
  assert ((~drawn).sum(1) == skip).all()
  assert drawn[:, 0].all()  # never block 0


@pytest.mark.parametrize(
  ('depth', 'skip'), [(3, 1), (6, 1), (12, 1), (13, 2), (28, 2)]
)
def test_default_count(depth, skip):
  assert ((~masks(depth)).sum(1) == skip).all()


def test_all_other_blocks_are_drawn_evenly():
  skipped = (~masks(5, count=2000)).mean(0)
  assert skipped[0] == 0
  np.testing.assert_allclose(skipped[1:], 1 / 4, atol=0.05)


def test_masks_belong_to_their_keys():
  term, key = StochasticSelf(Scale(1.5), 3), jax.random.key(4)
  np.testing.assert_array_equal(term.keep(28, key), term.keep(28, key))
  assert len(np.unique(masks(28, 3), axis=0)) > 50


def test_null_label():
  labels = ClassifierFree(Scale(2)).weak_label(
    jnp.asarray([0, 3, 9]), 10, jax.random.key(0)
  )
  np.testing.assert_array_equal(labels, [10, 10, 10])


@pytest.mark.parametrize(
  ('t', 'value'),
  [(0, 1), (0.299, 1), (0.3, 2.5), (0.5, 2.5), (0.6, 2.5), (0.601, 1), (1, 1)],
)
def test_scale_is_one_outside_its_interval(t, value):
  assert Scale(2.5, 0.3, 0.6).at(jnp.float32(t)) == value


@pytest.mark.parametrize('t', [0.0, 0.5, 1.0])
def test_scale_without_interval_holds_everywhere(t):
  assert Scale(2.5).at(jnp.float32(t)) == 2.5


@pytest.mark.parametrize(
  'interval', [(0.7, 0.3), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.1)]
)
def test_impossible_intervals(interval):
  with pytest.raises(InputError, match='expected 0 <= low < high <= 1'):
    Scale(1.5, *interval)
