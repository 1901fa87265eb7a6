"""Networks, schedules and losses match the public code of each family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import nhwc, relative

from dit import model
from dit.path import expand, linear_betas, path_named
from dit.weights import convert
from guidance import ClassifierFree, Guidance, Internal, Scale, Step
from sample.ddpm import discrete_grid
from sample.solvers import DIFFUSIONS
from train.objective import velocity_losses

VARIANTS = [
  ('ig_sit', 'model'),
  ('ig_sit', 'model_qknorm'),
  ('ig_lightningdit', 'model'),
  ('ig_lightningdit', 'model_qknorm_woshift'),
  ('sit', 'model'),
  ('sit', 'model_nosigma'),
  ('dit', 'model'),
]
each_variant = pytest.mark.parametrize(('family', 'variant'), VARIANTS)
# In the reference, float32 and float64 results differ by about 2e-7.
TOLERANCE = 2e-5
PATHS = {'Linear': 'linear', 'GVP': 'cosine', 'VP': 'vp'}
apply = jax.jit(lambda denoiser, *args: denoiser(*args))
losses_of = jax.jit(velocity_losses, static_argnums=1)
guided = jax.jit(
  lambda guidance, denoiser, x, t, label: guidance(
    denoiser, x, t, label, Step(t, (None,))
  )
)


@each_variant
def test_forward(family, variant):
  denoiser = reference.denoiser(family, variant)
  golden = reference.read(
    f'{reference.FAMILIES[family][0]}/{variant}_forward.npz'
  )
  x, t = nhwc(golden['x']), jnp.asarray(golden['t'], reference.state_dtype())
  names = ['out_f64', 'out_intermediate_f64'][: 1 + denoiser.num_taps]
  convention = denoiser.config.convention
  ours = {'velocity': t, 'reversed': 1 - t, 'noise': (t + 1) / 1000}[convention]
  out = apply(denoiser, x, ours, golden['y'])
  predictions = [out.velocity, *out.intermediate]
  if convention == 'reversed':
    predictions = [-prediction for prediction in predictions]
  if convention == 'noise':
    path = path_named('discrete')
    noise = path.noise_from_velocity(x, out.velocity, ours)
    predictions = [jnp.concatenate([noise, out.variance], -1)]
  else:
    assert out.variance is None
  for prediction, name in zip(predictions, names, strict=True):
    assert relative(prediction, golden[name]) < TOLERANCE


@each_variant
def test_round_trip_is_bitwise(family, variant):
  folder, taps = reference.FAMILIES[family]
  published = reference.read(f'{folder}/{variant}.safetensors')
  config, params = convert.from_published(
    published, family=family, num_heads=4, taps=taps
  )
  shapes = model.shapes(config)
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
  back = convert.to_published(config, params, family=family)
  assert back.keys() == published.keys()
  for name, tensor in published.items():
    assert back[name].dtype == tensor.dtype
    np.testing.assert_array_equal(back[name], tensor, strict=True)


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_tables_are_the_published_ones(family):
  denoiser = reference.denoiser(family)
  fresh = jax.jit(model.init, static_argnums=0)(
    denoiser.config, jax.random.key(0)
  )
  for name in ('position', 'rotary') if denoiser.config.rope else ('position',):
    published = denoiser.params[name]
    np.testing.assert_allclose(fresh[name], published, atol=1e-6)


@pytest.mark.parametrize('kind', ['linear', 'cosine'])
@pytest.mark.parametrize('times', ['uniform', 'lognormal'])
def test_ig_sit_loss(kind, times):
  golden = reference.read('ig_sit/loss.npz')
  path = path_named(kind)
  t = jnp.asarray(golden[f'{kind}_{times}/raw'])
  if times == 'lognormal':
    t = path.time_of_ratio(jnp.exp(t))
  final, (intermediate,) = losses_of(
    reference.denoiser('ig_sit'),
    path,
    nhwc(golden['images']),
    nhwc(golden['noise']),
    t,
    jnp.asarray(golden['y']),
  )[:2]
  for ours, name in ((final, 'denoising'), (intermediate, 'align')):
    np.testing.assert_allclose(
      ours, golden[f'{kind}_{times}/{name}_loss_f64'], rtol=2e-5
    )


def guided_cases():
  """Yields (name, LightningDiT time, CFG scale, IG scale, IG interval end)."""
  for t in (0.05, 0.19, 0.2, 0.6):
    yield f't{t}_cfg1.45_ig1.4', t, 1.45, 1.4, 1.0
    yield f't{t}_cfg2.0_ig1.0', t, 2.0, 1.0, 1.0
    yield f't{t}_igonly1.7', t, 1.0, 1.7, 1.0
    yield f't{t}_igonly1.7_interval0.5', t, 1.0, 1.7, 0.5


@pytest.mark.parametrize(('name', 't', 'cfg', 'ig', 'end'), [*guided_cases()])
def test_lightningdit_guidance(name, t, cfg, ig, end):
  golden = reference.read('ig_lightningdit/guided_forward.npz')
  half = len(golden['x']) // 2
  guidance = Guidance(
    Internal(Scale(ig, 1 - end, 1.0)),
    (ClassifierFree(Scale(cfg, 0.0, 0.81)),),
  )
  if 'igonly' in name:  # Without CFG, IG also guides null labels.
    x, label = nhwc(golden['x']), jnp.asarray(golden['y'])
  else:
    x, label = nhwc(golden['x'][:half]), jnp.asarray(golden['y'][:half])
  t = jnp.asarray(1 - t)
  denoiser = reference.denoiser('ig_lightningdit')
  ours = guided(guidance, denoiser, x, t, label)
  assert relative(-ours, golden[name][: len(x)]) < TOLERANCE


@pytest.mark.parametrize('name', PATHS)
def test_sit_paths(name):
  golden, path = (
    reference.read('sit_upstream/paths.npz'),
    path_named(PATHS[name]),
  )

  def close(ours, theirs):
    theirs = golden[f'{name}/{theirs}']
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

  t = jnp.asarray(1 - golden['t'])
  x0, noise, v = (jnp.asarray(golden[k]) for k in ('x1', 'x0', 'v'))
  x = path.interpolate(x0, noise, t)
  close(x, 'xt')
  close(-path.velocity(x0, noise, t), 'ut')
  close(path.alpha(t), 'alpha')
  close(-path.d_alpha(t), 'd_alpha')
  close(path.sigma(t), 'sigma')
  close(-path.d_sigma(t), 'd_sigma')
  close(path.score_from_velocity(x, -v, t), 'score_from_v')
  close(path.noise_from_velocity(x, -v, t), 'noise_from_v')
  noise_of_score = -path.sigma(expand(t, x)) * v
  close(-path.velocity_from_noise(x, noise_of_score, t), 'v_from_score')
  for form, w in DIFFUSIONS.items():
    theirs = {'sbdm': 'SBDM', 'increasing_decreasing': 'inccreasing-decreasing'}
    close(w(path, t, 1.7), f'diffusion/{theirs.get(form, form)}')


def test_dit_schedule():
  golden, path = reference.read('dit/schedule.npz'), path_named('discrete')
  np.testing.assert_allclose(golden['[]/betas'], linear_betas(), rtol=1e-11)
  alphas = np.square(path.alpha(jnp.arange(1, 1001) / 1000))
  np.testing.assert_allclose(alphas, golden['[]/alphas_cumprod'], rtol=1e-5)


@pytest.mark.parametrize(
  'respacing', ['250', '10', 'ddim25', 'ddim5', '50,30,20']
)
def test_dit_respacing(respacing):
  golden = reference.read('dit/schedule.npz')[f'[{respacing}]/timestep_map']
  grid = discrete_grid(respacing)
  steps = np.round(grid[:-1] * 1000).astype(int) - 1
  np.testing.assert_array_equal(steps, golden[::-1])
  assert grid[-1] == 0
