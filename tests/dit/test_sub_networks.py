"""A sub-network has equal outputs in a full pass and in a separate pass."""

import functools
import itertools

import jax
import jax.numpy as jnp
import networks
import pytest

from dit.types import SubNetworks

# A mask has 1 for each block that runs. The taps follow blocks 2 and 3 of 5.
MASKS = {
  'first skipped': [0, 1, 1, 1, 1], 'second skipped': [1, 0, 1, 1, 1],
  'between the taps': [1, 1, 0, 1, 1], 'last skipped': [1, 1, 1, 1, 0],
  'two skipped': [1, 0, 1, 0, 1], 'neighbors skipped': [1, 0, 0, 1, 1],
  'all kept': [1, 1, 1, 1, 1], 'none kept': [0, 0, 0, 0, 0],
}  # fmt: skip
# The two groups of four masks share one compiled program.
GROUPS = jnp.asarray([*MASKS.values()], bool).reshape(2, 4, 5)

apply = jax.jit(lambda denoiser, batch, sub: denoiser(*batch, sub))


@jax.jit
def apply_kept(denoiser, batch, keep):
  return denoiser(*batch, keep=keep)


close = functools.partial(networks.assert_close, rtol=1e-5, atol=1e-5)


each_every = pytest.mark.parametrize(
  'every', [2, pytest.param(1, marks=pytest.mark.slow)]
)


@each_every
@pytest.mark.parametrize('name', MASKS)
def test_sub_network_equals_a_pass_of_its_own(denoiser, batch, name, every):
  group, k = divmod([*MASKS].index(name), 4)
  out = apply(denoiser, batch, SubNetworks(GROUPS[group], every))
  assert len(out.sub) == 4
  rows = [array[::every] for array in batch]
  close(out.sub[k], apply_kept(denoiser, rows, GROUPS[group][k]))


@each_every
def test_all_kept_equals_the_full_pass(denoiser, batch, every):
  out = apply(denoiser, batch, SubNetworks(jnp.ones((4, 5), bool), every))
  for same in out.sub:
    close(same.velocity, out.velocity[::every])
    close(same.intermediate, tuple(p[::every] for p in out.intermediate))


def test_masks_make_different_networks(denoiser, batch):
  outs = [apply(denoiser, batch, SubNetworks(group, 2)).sub for group in GROUPS]
  for a, b in itertools.combinations((*outs[0], *outs[1]), 2):
    assert jnp.abs(a.velocity - b.velocity).max() > 1e-2


def test_the_pass_itself_does_not_change(denoiser, batch):
  out = apply(denoiser, batch, SubNetworks(GROUPS[0], 2))
  whole = apply(denoiser, batch, None)
  close(out.velocity, whole.velocity)
  close(out.intermediate, whole.intermediate)
  assert whole.sub == ()
