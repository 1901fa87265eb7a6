"""Our numbers against the public Internal Guidance code (SiT variant)."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dit import convert, model
from dit.path import path_named
from guidance import ClassifierFree, Guidance, Internal, Scale
from sample.grid import make_grid
from sample.sampler import integrate
from sample.solvers import Euler, EulerMaruyama, Heun
from train.objective import velocity_losses

FOLDER = pathlib.Path(__file__).parent / 'golden' / 'ig_sit'
CASES = json.loads((FOLDER / 'config.json').read_text())['sampler_cases']


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, -3, -1), jnp.float32)


def relative(ours, golden):
  golden = np.moveaxis(np.asarray(golden, np.float64), -3, -1)
  return np.linalg.norm(ours - golden) / np.linalg.norm(golden)


@pytest.fixture(scope='module')
def golden_denoiser():
  tensors = load_file(FOLDER / 'model.safetensors')
  config, params = convert.from_published(
    tensors, family='ig_sit', num_heads=4, taps=(2,)
  )
  # The conversion loses and invents nothing.
  ours = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert ours == sum(tensor.size for tensor in tensors.values())
  shapes = model.shapes(config)
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
  return model.bind(config, jax.tree.map(jnp.asarray, params))


def check_forward(denoiser, golden):
  out = denoiser(nhwc(golden['x']), golden['t'], golden['y'])
  assert relative(out.velocity, golden['out_f64']) < 2e-5
  error = relative(out.intermediate[0], golden['out_intermediate_f64'])
  assert error < 2e-5


def test_forward(golden_denoiser):
  check_forward(golden_denoiser, np.load(FOLDER / 'model_forward.npz'))


def test_forward_with_qk_norm():
  folder = pathlib.Path(__file__).parents[2] / 'shared' / 'golden' / 'ig_sit'
  if not folder.exists():
    pytest.skip('the shared golden files are not beside the project')
  config, params = convert.from_published(
    load_file(folder / 'model_qknorm.safetensors'),
    family='ig_sit',
    num_heads=4,
    taps=(2,),
  )
  assert config.qk_norm == 'layernorm'
  denoiser = model.bind(config, jax.tree.map(jnp.asarray, params))
  check_forward(denoiser, np.load(folder / 'model_qknorm_forward.npz'))


def test_position_table_is_the_published_one(golden_denoiser):
  fresh = model.init(golden_denoiser.config, jax.random.key(0))
  published = golden_denoiser.params['position']
  np.testing.assert_allclose(fresh['position'], published, atol=1e-6)


@pytest.mark.parametrize('kind', ['linear', 'cosine'])
@pytest.mark.parametrize('times', ['uniform', 'lognormal'])
def test_loss(golden_denoiser, kind, times):
  golden = np.load(FOLDER / 'loss.npz')
  path = path_named(kind)
  t = jnp.asarray(golden[f'{kind}_{times}/raw'])
  if times == 'lognormal':
    t = path.time_of_ratio(jnp.exp(t))
  final, (intermediate,) = velocity_losses(
    golden_denoiser,
    path,
    nhwc(golden['images']),
    nhwc(golden['noise']),
    t,
    jnp.asarray(golden['y']),
  )
  for ours, name in ((final, 'denoising'), (intermediate, 'align')):
    np.testing.assert_allclose(
      ours, golden[f'{kind}_{times}/{name}_loss_f64'], rtol=2e-5
    )


def case_guidance(kwargs):
  """The reference's arguments as our guidance; its scales <= 1 are off."""

  def scale(name, prefix):
    low, high = (kwargs.get(f'{prefix}guidance_{b}', d) for b, d in
                 (('low', 0.0), ('high', 1.0)))  # fmt: skip
    return Scale(max(kwargs.get(name, 1.0), 1.0), low, high)

  return Guidance(
    Internal(scale('sg_scale', 'sg_')),
    (ClassifierFree(scale('cfg_scale', '')),),
  )


@pytest.mark.parametrize('name', CASES)
def test_sampler(golden_denoiser, name):
  case, golden = CASES[name], np.load(FOLDER / 'samplers.npz')
  kwargs = case['kwargs']
  guidance = case_guidance(kwargs)
  if case['function'] == 'euler_sampler':
    solver = Heun() if kwargs.get('heun') else Euler()
    grid = make_grid(case['num_steps'])
  else:
    solver = EulerMaruyama(path_named(kwargs.get('path_type', 'linear')))
    grid = make_grid(case['num_steps'], last=0.04)
  grid = jnp.asarray(grid)
  # One more field than the reference draws: the last step must not use it.
  noise = nhwc(golden['sde_noise'])
  noise = jnp.concatenate([noise, jnp.full_like(noise[:1], 1e6)])
  label, key = jnp.asarray(golden['y']), jax.random.key(0)
  x = integrate(
    lambda x, t, n: guidance(golden_denoiser, x, t, label, key, at=grid[n]),
    solver,
    nhwc(golden['latents']),
    grid,
    lambda n: noise[n],
  )
  assert relative(x, golden[f'{name}/final_f64']) < 1e-4
