"""A film strip shows the states and the guidance of a sampled trajectory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Toy

from core.errors import InputError
from dit import latents
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from dit.types import SubNetworks
from guidance import parse
from sample import generate, sampler
from sample.sampler import state_and_parts
from sample.trajectory import record_trajectory

CONFIG = generate.SampleConfig(
  solver='euler', steps=6, last_step_size=0.0, batch_size=2
)
LABELS = np.asarray([3, 8, 3])
EVERYTHING = 'ig:1.6,cfg:1.5@0-0.6,s2:1.4'
GRID = CONFIG.grid(path_named('linear'))


def make_sampler(devices=1, path='linear', **changes):
  config = dataclasses.replace(CONFIG, **changes)
  mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
  return generate.Sampler(Toy(), config, path_named(path), (8, 8, 3), mesh)


def shoot(text, **changes):
  drawing = make_sampler(**changes)
  return record_trajectory(drawing, parse(text), LABELS, seed=5, frames=4)


def draw(text, record=state_and_parts):
  """Returns images and the records, by default states and predictions."""
  drawing = make_sampler()
  with jax.set_mesh(drawing.mesh):
    return drawing.latents(parse(text), LABELS, np.arange(3), 5, record=record)


def close(ours, expected, atol=2e-5):
  np.testing.assert_allclose(ours, expected, atol=atol, rtol=1e-4)


@pytest.fixture(scope='module')
def everything():
  return draw(EVERYTHING)


def test_states_are_those_of_the_sampler(everything):
  x, (states, seen) = everything
  np.testing.assert_array_equal(x, draw(EVERYTHING, record=None)[0])
  # An Euler step with the recorded guided velocity must give the next state.
  following = [*states[1:], x]
  for n, after in enumerate(following):
    close(states[n] + (GRID[n + 1] - GRID[n]) * seen.velocity[n], after)


def test_parts_are_the_network_s_own(everything):
  _, (states, seen) = everything
  label = jnp.asarray(LABELS)

  @jax.jit
  def outputs(x, t, n):
    draws = sampler.draw_steps(
      parse(EVERYTHING), Toy(), label, jnp.arange(3), 5, 6
    )
    t, sub = jnp.full(3, t), SubNetworks(draws[1][n], 1)
    return Toy()(x, t, label, sub), Toy()(x, t, jnp.full(3, 10))

  for n in (0, 3, 5):
    out, weak = outputs(states[n], GRID[n], n)
    refined, cfg, s2 = (
      1.6 * part.velocity - 0.6 * part.intermediate[0]
      for part in (out, weak, *out.sub)
    )
    guided = refined + 0.4 * (refined - s2)
    if GRID[n] <= 0.6:
      guided += 0.5 * (refined - cfg)
    expected = {'strong': out.velocity, 'ig': out.intermediate[0],
                'refined': refined, 'cfg': cfg, 's2': s2}  # fmt: skip
    for name, value in expected.items():
      close(seen.parts[name][n], value)
    close(seen.velocity[n], guided)


def test_frames_and_gaps(everything):
  found, (_, (states, seen)) = shoot(EVERYTHING), everything
  assert list(found.images) == [
    'state', 'strong', 'ig', 'refined', 'cfg', 's2', 'guided',
  ]  # fmt: skip
  chosen = [0, 2, 3, 5]
  np.testing.assert_allclose(found.times, GRID[chosen])
  np.testing.assert_allclose(found.begins, GRID[:-1])
  for k, n in enumerate(chosen):
    x0 = states[n] - GRID[n] * seen.parts['s2'][n]
    expected = np.asarray(latents.to_pixels(x0)).astype(int)
    assert np.abs(found.images['s2'][k] - expected).max() <= 1
    state = np.asarray(latents.to_pixels(states[n])).astype(int)
    assert np.abs(found.images['state'][k] - state).max() <= 1
  assert list(found.gaps) == ['ig', 'cfg', 's2']
  for name, strong in (('ig', 'strong'), ('cfg', 'refined'), ('s2', 'refined')):
    gap = np.asarray(seen.parts[strong] - seen.parts[name])
    close(found.gaps[name], np.sqrt(np.square(gap).mean((1, 2, 3, 4))))


@pytest.mark.slow
def test_devices_need_not_divide_the_images():
  one, eight = (
    shoot('cfg:1.5', devices=devices, batch_size=8) for devices in (1, 8)
  )
  for name, images in one.images.items():
    assert np.abs(images.astype(int) - eight.images[name]).max() <= 1


@pytest.mark.parametrize(('text', 'changes'), [
  ('none', {}),
  ('cfg_zero:1.5:zero_steps=2', {}),
  ('apg:2:momentum=-0.5', {'solver': 'heun'}),
  ('cfg:1.5', {'solver': 'euler_maruyama', 'last_step_size': 0.04}),
  ('cfg:1.5', {'solver': 'ddpm:variance=small', 'path': 'discrete'}),
  ('ig:1.5', {'state_dtype': 'float64'}),
  ('cfg++:0.3', {}),
])  # fmt: skip
def test_every_kind_of_sampler(text, changes):
  found = shoot(text, **changes)
  assert all(v.dtype == np.uint8 for v in found.images.values())
  assert all(np.isfinite(gap).all() for gap in found.gaps.values())
  if text == 'none':
    guided, strong = (found.images[name] for name in ('guided', 'strong'))
    np.testing.assert_array_equal(guided, strong)
    assert not found.gaps


def test_adaptive_solvers_have_no_steps():
  with pytest.raises(InputError, match='has no fixed steps to record'):
    shoot('ig:1.5', solver='dopri5')
