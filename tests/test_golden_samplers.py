"""Trajectories end at the same states as in the public code of each family.

The last test runs all other tests in float64. Results then agree to 1e-6.
"""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import nhwc, relative

from dit.path import path_named
from guidance import ClassifierFree, Guidance, Internal, Scale, Step
from sample.adaptive import dopri5
from sample.ddpm import DDIM, DDPM, discrete_grid
from sample.grid import make_grid
from sample.sampler import integrate
from sample.solvers import (
  RK4,
  Euler,
  EulerMaruyama,
  Heun,
  HeunMaruyama,
  Midpoint,
)

TOLERANCE = 1e-6 if jax.config.jax_enable_x64 else 1e-4
SAMPLERS = [
  ('ig_sit', 'sampler_cases'),
  ('ig_lightningdit', 'sampler_cases'),
  ('sit_upstream', 'ode_cases'),
  ('sit_upstream', 'sde_cases'),
  ('dit', 'sampler_cases'),
]
LASTS = {'Mean': 'mean', 'Tweedie': 'tweedie', 'Euler': 'euler', None: 'noise'}
PATHS = {'Linear': 'linear', 'GVP': 'cosine', 'VP': 'vp'}
FIXED = {'euler': Euler(), 'heun2': Heun('heun'), 'midpoint': Midpoint(),
         'rk4': RK4()}  # fmt: skip


_SLOW = () if jax.config.jax_enable_x64 else (pytest.mark.slow,)


def cases(folder, section='sampler_cases'):
  """Returns the name and settings of each case of a test.

  Most float32 cases are marked slow, because the float64 run has all cases.
  """
  for place in reference.PLACES:
    if (place / folder / 'config.json').exists():
      found = reference.read(f'{folder}/config.json')[section]
      return [
        pytest.param(
          name, case, id=name, marks=_SLOW if k % 7 or 'dopri5' in name else ()
        )
        for k, (name, case) in enumerate(found.items())
      ]
  return []


@functools.partial(jax.jit, static_argnames=('solver', 'per_step'))
def solve(denoiser, guidance, x, label, grid, noise, *, solver, per_step=True):
  """Integrates to t = 0, with scales set once per step or per evaluation."""

  def evaluate(x, t, n, memory):
    step = Step(grid[n] if per_step else t, (None,))
    return guidance.predict(denoiser, x, t, label, step, memory)

  memory = guidance.init(x)
  return integrate(evaluate, solver, x, grid, lambda n: noise[n], memory)[0]


def end(family, guidance, solver, grid, z, label, noise=None, **options):
  grid = jnp.asarray(grid, reference.state_dtype())
  # Steps that must ignore noise get noise of 1e6, which would spoil the result.
  missing = len(grid) - 1 - (0 if noise is None else len(noise))
  unused = jnp.full((missing, *z.shape), 1e6, z.dtype)
  noise = unused if noise is None else jnp.concatenate([noise, unused])
  return solve(
    reference.denoiser(family),
    guidance,
    z,
    label,
    grid,
    noise,
    solver=solver,
    **options,
  )


@pytest.mark.parametrize(('name', 'case'), cases('ig_sit'))
def test_ig_sit(name, case):
  golden, kwargs = reference.read('ig_sit/samplers.npz'), case['kwargs']

  def scale(name, prefix):
    """Returns a scale of at least 1; the reference is unguided below 1."""
    return Scale(
      max(kwargs.get(name, 1.0), 1.0),
      kwargs.get(f'{prefix}guidance_low', 0.0),
      kwargs.get(f'{prefix}guidance_high', 1.0),
    )

  guidance = Guidance(
    Internal(scale('sg_scale', 'sg_')),
    (ClassifierFree(scale('cfg_scale', '')),),
  )
  if case['function'] == 'euler_sampler':
    solver = Heun() if kwargs.get('heun') else Euler()
    grid, noise = make_grid(case['num_steps']), None
  else:
    solver = EulerMaruyama(path_named(kwargs.get('path_type', 'linear')))
    grid = make_grid(case['num_steps'], last_step_size=0.04)
    noise = nhwc(golden['sde_noise'])
  z, label = nhwc(golden['latents']), jnp.asarray(golden['y'])
  x = end('ig_sit', guidance, solver, grid, z, label, noise)
  assert relative(x, golden[f'{name}/final_f64']) < TOLERANCE


@pytest.mark.parametrize(('name', 'case'), cases('ig_lightningdit'))
def test_ig_lightningdit(name, case):
  golden = reference.read('ig_lightningdit/samplers.npz')
  z, label = nhwc(golden['z']), jnp.asarray(golden['y'])
  high = 1 - case.get('cfg_interval_start', 0.0)
  guidance = Guidance(
    Internal(Scale(case['ig'])), (ClassifierFree(Scale(case['cfg'], 0, high)),)
  )
  if case['method'] == 'dopri5':
    denoiser = reference.denoiser('ig_lightningdit')
    x, calls = adaptive(
      lambda x, t: guidance(denoiser, x, t, label, Step(t, (None,))), z
    )
    assert calls == case['model_calls']
  else:
    points = reference.read('ig_lightningdit/config.json')['sampler_num_steps']
    shift = 1 / case['shift'] if case['shift'] else 1.0
    grid = make_grid(points - 1, shift=shift)
    solver = FIXED[case['method']]
    x = end('ig_lightningdit', guidance, solver, grid, z, label,
            per_step=False)  # fmt: skip
    steps = zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True)
    times = [t for step in steps for t in solver.times(*step)]
    evaluated = 1 - golden[f'{name}/eval_times_f64']
    np.testing.assert_allclose(times, evaluated, atol=1e-6)
  assert relative(x, golden[f'{name}/final_f64']) < TOLERANCE


@pytest.mark.parametrize(('name', 'case'), cases('sit_upstream', 'ode_cases'))
def test_sit_ode(name, case):
  golden = reference.read('sit_upstream/ode.npz')
  z, label = nhwc(golden['z']), jnp.asarray(golden['y'])
  guidance = three_channels(case['cfg_scale'])
  if case['method'] == 'dopri5':
    field = functools.partial(doubled, guidance, label)
    tolerances = {'rtol': case['rtol'], 'atol': case['atol']}
    x, calls = adaptive(field, jnp.concatenate([z, z]), **tolerances)
    x = x[: len(z)]
    if jax.config.jax_enable_x64 or case['rtol'] > 1e-5:
      # In float32, rounding may change `calls` for the smallest rtol.
      assert calls == case['model_calls']
  else:
    grid = make_grid(case['num_steps'] - 1)
    x = end('sit', guidance, FIXED[case['method']], grid, z, label)
  assert relative(x, golden[f'{name}/final_f64']) < TOLERANCE


@pytest.mark.parametrize(
  ('name', 'case'),
  [c for c in cases('sit_upstream', 'sde_cases') if c.values[1]['finite']],
)
def test_sit_sde(name, case):
  golden = reference.read('sit_upstream/sde.npz')
  z, label = nhwc(golden['z']), jnp.asarray(golden['y'])
  form = case['diffusion_form']
  kind = {'Euler': EulerMaruyama, 'Heun': HeunMaruyama}[case['method']]
  solver = kind(
    path_named(PATHS[case['path']]),
    'increasing_decreasing' if form == 'inccreasing-decreasing' else form,
    case['diffusion_norm'],
    LASTS[case['last_step']],
  )
  steps, last = case['num_steps'], case['last_step_size']
  grid = make_grid(steps, last_step_size=last) if last else make_grid(steps - 1)
  noise = nhwc(golden['noise'])[: steps - 1, : len(z)]
  guidance = three_channels(case['cfg_scale'])
  x = end('sit', guidance, solver, grid, z, label, noise)
  assert relative(x, golden[f'{name}/final_f64']) < TOLERANCE


@pytest.mark.parametrize(('name', 'case'), cases('dit'))
def test_dit(name, case):
  golden, path = reference.read('dit/samplers.npz'), path_named('discrete')
  z, label = nhwc(golden['z']), jnp.asarray(golden['y'])
  clip = case['clip_denoised']
  if case['kind'] == 'ddpm':
    solver = DDPM(path, clip=clip)
  else:
    solver = DDIM(path, case['eta'], clip)
  grid = discrete_grid(case['timestep_respacing'])
  # The reference multiplies its last noise by 0, so the test omits that noise.
  noise = nhwc(golden['noise'])[: case['noise_used'] - 1, : len(z)]
  guidance = three_channels(case['cfg_scale'])
  x = end('dit', guidance, solver, grid, z, label, noise)
  assert relative(x, golden[f'{name}/final_f64']) < TOLERANCE


def three_channels(scale):
  """Returns CFG for the first three channels, as in the DiT and SiT code."""
  return Guidance(None, (ClassifierFree(Scale(scale), guided_channels=3),))


def doubled(guidance, label, x, t):
  """Returns the velocity of both halves of SiT's CFG batch, for dopri5.

  The errors of both halves affect the step size. In the unguided channels, the
  second half has the prediction for the null label.
  """
  denoiser, half = reference.denoiser('sit'), len(label)
  guided = guidance(denoiser, x[:half], t, label, Step(t, (None,)))
  if guidance.terms[0].scale.value == 1:
    return jnp.concatenate([guided, guided])
  null = jnp.full(half, denoiser.num_classes)
  weak = denoiser(x[:half], jnp.full(half, t), null).velocity
  return jnp.concatenate(
    [guided, jnp.concatenate([guided[..., :3], weak[..., 3:]], axis=-1)]
  )


def adaptive(field, x, **tolerances):
  return jax.jit(functools.partial(dopri5, field, **tolerances))(x)


def test_all_cases_are_here():
  counts = [len(cases(*sampler)) for sampler in SAMPLERS]
  assert counts == [14, 6, 10, 10, 6]


@pytest.mark.skipif(jax.config.jax_enable_x64, reason='is that run')
@pytest.mark.slow
def test_in_float64():
  result = subprocess.run(
    [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', __file__],
    env={**os.environ, 'JAX_ENABLE_X64': '1'},
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
    timeout=580,
  )
  assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
