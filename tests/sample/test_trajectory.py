"""The film strip: it is of the very trajectory, and shows what it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from dit import latents
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from dit.types import SubNetworks
from guidance import parse
from sample import generate, sampler
from sample.trajectory import record_trajectory

pytestmark = pytest.mark.usefixtures('quick_compilation')
CONFIG = generate.SampleConfig(
  solver='euler', steps=6, last_step_size=0.0, batch_size=2
)
LABELS = np.asarray([3, 8, 3])
SHAPE = (8, 8, 3)
EVERYTHING = 'ig:1.6,cfg:1.5@0-0.6,s2:1.4'


def shoot(denoiser, text, *, devices=1, path='linear', **changes):
  sampler = generate.Sampler(
    denoiser,
    dataclasses.replace(CONFIG, **changes),
    path_named(path),
    SHAPE,
    make_mesh(MeshConfig(), jax.devices()[:devices]),
  )
  return record_trajectory(sampler, parse(text), LABELS, seed=5, frames=4)


def parts(denoiser, text, path='linear'):
  """States, and everything that guidance saw, of every step."""
  return sampler.sample(
    denoiser,
    parse(text),
    jnp.asarray(LABELS),
    jnp.arange(3),
    CONFIG.grid(path_named(path)),
    5,
    sampler.Integration(
      CONFIG.make_solver(path_named(path)), SHAPE, path_named(path)
    ),
    parts=True,
  )


def close(ours, expected, atol=2e-5):
  np.testing.assert_allclose(ours, expected, atol=atol, rtol=1e-4)


def test_states_are_those_of_the_sampler(denoiser):
  x, (states, seen) = parts(denoiser, EVERYTHING)
  grid = CONFIG.grid(path_named('linear'))
  np.testing.assert_array_equal(
    x,
    sampler.sample(
      denoiser, parse(EVERYTHING), jnp.asarray(LABELS), jnp.arange(3), grid, 5,
      sampler.Integration(CONFIG.make_solver(path_named('linear')), SHAPE),
    )[0],
  )  # fmt: skip
  # Each step of Euler follows what is shown as guided.
  following = [*states[1:], x]
  for n, after in enumerate(following):
    close(states[n] + (grid[n + 1] - grid[n]) * seen.velocity[n], after)


def test_parts_are_the_network_s_own(denoiser):
  _, (states, seen) = parts(denoiser, EVERYTHING)
  grid = CONFIG.grid(path_named('linear'))
  draws = sampler.draw_steps(
    parse(EVERYTHING), denoiser, jnp.asarray(LABELS), jnp.arange(3), 5, 6
  )
  label, null = jnp.asarray(LABELS), jnp.full(3, 10)
  for n in (0, 3, 5):
    t = jnp.full(3, grid[n])
    keep = draws[1][n]
    out = denoiser(states[n], t, label, SubNetworks(keep, 1))
    weak = denoiser(states[n], t, null)
    refined = 1.6 * out.velocity - 0.6 * out.intermediate[0]
    close(seen.parts['strong'][n], out.velocity)
    close(seen.parts['ig'][n], out.intermediate[0])
    close(seen.parts['refined'][n], refined)
    cfg = 1.6 * weak.velocity - 0.6 * weak.intermediate[0]
    close(seen.parts['cfg'][n], cfg)
    (sub,) = out.sub
    s2 = 1.6 * sub.velocity - 0.6 * sub.intermediate[0]
    close(seen.parts['s2'][n], s2)
    guided = refined + 0.4 * (refined - s2)
    if grid[n] <= 0.6:
      guided += 0.5 * (refined - cfg)
    close(seen.velocity[n], guided)


def test_frames_and_gaps(denoiser):
  found = shoot(denoiser, EVERYTHING)
  _, (states, seen) = parts(denoiser, EVERYTHING)
  grid = CONFIG.grid(path_named('linear'))
  assert list(found.images) == [
    'state', 'strong', 'ig', 'refined', 'cfg', 's2', 'guided',
  ]  # fmt: skip
  chosen = [0, 2, 3, 5]
  np.testing.assert_allclose(found.times, grid[chosen])
  np.testing.assert_allclose(found.begins, grid[:-1])
  for k, n in enumerate(chosen):
    x0 = states[n] - grid[n] * seen.parts['s2'][n]
    expected = np.asarray(latents.to_pixels(x0)).astype(int)
    assert np.abs(found.images['s2'][k] - expected).max() <= 1
    state = np.asarray(latents.to_pixels(states[n])).astype(int)
    assert np.abs(found.images['state'][k] - state).max() <= 1
  assert list(found.gaps) == ['ig', 'cfg', 's2']
  for name, strong in (('ig', 'strong'), ('cfg', 'refined'), ('s2', 'refined')):
    gap = seen.parts[strong] - seen.parts[name]
    rms = np.sqrt(np.square(gap).mean((1, 2, 3, 4)))
    close(found.gaps[name], rms)
  # Any number of devices, which need not divide the images.
  eight = shoot(denoiser, EVERYTHING, devices=8, batch_size=8)
  for name, images in found.images.items():
    assert np.abs(images.astype(int) - eight.images[name]).max() <= 1


@pytest.mark.parametrize(
  ('text', 'changes'),
  [
    ('none', {}),
    ('cfg_zero:1.5:zero_steps=2', {}),
    ('apg:2:momentum=-0.5', {'solver': 'heun'}),
    ('cfg:1.5', {'solver': 'euler_maruyama', 'last_step_size': 0.04}),
    ('cfg:1.5', {'solver': 'ddpm:variance=small', 'path': 'discrete'}),
    ('ig:1.5', {'state_dtype': 'float64'}),
    ('cfg++:0.3', {}),
  ],
)
def test_every_kind_of_sampler(denoiser, text, changes):
  found = shoot(denoiser, text, **changes)
  assert all(v.dtype == np.uint8 for v in found.images.values())
  assert all(np.isfinite(gap).all() for gap in found.gaps.values())
  if text == 'none':
    guided, strong = (found.images[name] for name in ('guided', 'strong'))
    np.testing.assert_array_equal(guided, strong)
    assert not found.gaps


def test_adaptive_solvers_have_no_steps(denoiser):
  with pytest.raises(InputError, match='has no steps to look at'):
    shoot(denoiser, 'ig:1.5', solver='dopri5')
