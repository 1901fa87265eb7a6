"""An image depends only on its index. A sweep compiles one program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Toy

from core.errors import InputError
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh, replicated
from evaluate.sweep import SweepGrid
from guidance import ClassifierFree, Guidance, Internal, Scale, parse
from sample import generate, sampler

PATH = path_named('linear')
SAMPLING = generate.SampleConfig(steps=3, shift=1.5, batch_size=4)
LABELS = generate.plan_labels('random', 16, 10, seed=3)


def make_sampler(denoiser, config, *, path=PATH, shape=(8, 8, 3), devices=None):
  mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
  return generate.Sampler(denoiser, config, path, shape, mesh)


def draw(denoiser, labels, *, config=SAMPLING, **changes):
  drawing = make_sampler(denoiser, config, devices=1)
  denoiser = jax.device_put(denoiser, replicated(drawing.mesh))
  drawing = dataclasses.replace(drawing, denoiser=denoiser)
  arguments = {'guidance': parse('ig:1.4,cfg:1.3'), 'seed': 3, **changes}
  latents = []

  def record(*args, sample=sampler.sample, **kwargs):
    latents.append(sample(*args, **kwargs)[0])
    return latents[-1], None

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sampler, 'sample', record)
    images, _, _ = drawing.images(labels=labels, **arguments)
  return images, np.concatenate([*map(np.asarray, latents)])


@pytest.fixture(scope='module')
def expected(denoiser):
  return draw(denoiser, LABELS)


def test_images_are_those_of_their_noise_and_labels(expected):
  """All images differ. test_devices.py tests other batch sizes and devices."""
  images, latents = expected
  assert images.shape == (16, 8, 8, 3) and images.dtype == np.uint8
  assert latents.dtype == np.float32 and np.isfinite(latents).all()
  assert len(np.unique(images, axis=0)) == 16
  # More than 5 % of the values are not clipped.
  assert 0.05 < ((images > 0) & (images < 255)).mean()


@pytest.mark.parametrize('count', [3, 5, 8])
def test_image_does_not_depend_on_the_count(denoiser, expected, count):
  done = []
  images, latents = draw(denoiser, LABELS[:count], progress=done.append)
  assert len(images) == count
  assert len(latents) == -(-count // 4) * 4  # Only full batches run.
  assert done == [*range(4, count, 4), count]
  np.testing.assert_array_equal(images, expected[0][:count])


def test_seed_and_label_matter(denoiser):
  labels = LABELS[:4]
  images, _ = draw(denoiser, labels, seed=3)
  for changed, seed in (labels, 4), ((labels + 1) % 10, 3):
    other, _ = draw(denoiser, changed, seed=seed)
    assert (images != other).any((1, 2, 3)).all()


def test_sweep_compiles_once():
  grid = SweepGrid.of('ig:1..2:3,cfg:1..2:3')
  config = dataclasses.replace(
    SAMPLING, solver='euler', steps=2, last_step_size=0.0
  )

  def images(guidance):
    return draw(Toy(), LABELS[:4], guidance=guidance, config=config)[0]

  before = sampler.sample._cache_size()
  drawn = [images(guidance) for guidance in map(parse, grid.texts())]
  assert sampler.sample._cache_size() == before + 1
  assert len(np.unique(drawn, axis=0)) == 9
  # One program serves integer, float and array scales.
  before = sampler.sample._cache_size()
  for value in (2, 2.0, np.float32(2), jnp.float32(2)):
    images(Guidance(Internal(Scale(value)), (ClassifierFree(Scale(value)),)))
  assert sampler.sample._cache_size() <= before + 1


def test_steps_have_their_own_keys():
  keys = [sampler.step_key(seed, n) for seed in range(3) for n in range(20)]
  keys += [jax.random.fold_in(jax.random.key(0), i) for i in range(20)]
  data = np.asarray([jax.random.key_data(key) for key in keys])
  assert len(np.unique(data, axis=0)) == len(keys)


@pytest.mark.parametrize(('plan', 'expected'), [
  ('balanced', [0, 1, 2, 3, 0, 1, 2]),
  ('3', [3] * 7),
  ('3,1,0', [3, 1, 0, 3, 1, 0, 3]),
])  # fmt: skip
def test_plan_labels(plan, expected):
  labels = generate.plan_labels(plan, 7, 4, seed=0)
  assert labels.dtype == np.int32
  np.testing.assert_array_equal(labels, expected)


def test_random_labels():
  labels = generate.plan_labels('random', 2000, 10, seed=0)
  assert labels.dtype == np.int32
  counts = np.bincount(labels, minlength=10)
  assert len(counts) == 10
  np.testing.assert_allclose(counts, 200, atol=60)
  other = generate.plan_labels('random', 2000, 10, seed=1)
  assert (labels != other).mean() > 0.5


@pytest.mark.parametrize('plan', ['balanced', 'random', '3,5,7'])
def test_labels_do_not_depend_on_the_count(plan):
  many = generate.plan_labels(plan, 50, 10, seed=2)
  for num in (1, 32):
    few = generate.plan_labels(plan, num, 10, seed=2)
    np.testing.assert_array_equal(few, many[:num])


@pytest.mark.parametrize(('changes', 'guidance', 'message'), [
  ({'batch_size': 12}, 'none', 'sample.batch_size is 12'),
  ({'steps': 0}, 'none', 'steps is 0'),
  ({'spacing': '1,0.5'}, 'none', 'expected decreasing times from 1 to 0'),
  ({'spacing': 'karas'}, 'none', "mean 'karras'"),
  ({}, 'ig:1.4:tap=5', 'needs tap 5'),
  ({'solver': 'ddpm'}, 'none', 'variance preserving'),
  ({'respacing': 'ddim300'}, 'none', 'no stride'),
  ({'scales_at': 'stage'}, 'none', 'expected one of step, evaluation'),
  ({'state_dtype': 'double'}, 'none', 'one of float32, float64'),
  # Some methods require certain solvers.
  ({'solver': 'heun'}, 'cfg++:0.1', 'of heun; choose sample.solver ddim'),
  ({}, 'cfg++:0.1', 'changes a step of DDIM, not of euler_maruyama'),
  ({'solver': 'euler'}, 'cfg_zero:2:zero_steps=3', 'first 3 of 3 .*lower'),
  *(
    ({'solver': 'dopri5'}, text, 'dopri5 chooses its own steps')
    for text in ('s2:1.5', 'icg:2', 'apg:2:momentum=-0.5', 'cfg_zero:2')
  ),
  ({'solver': 'dopri5'}, 'cfg++:0.1', 'changes a step of DDIM'),
  # Some solvers require certain paths or networks.
  ({'solver': 'euler', 'path': 'cosine'}, 'cfg++:0.1', 'choose'),
  ({'solver': 'dopri5', 'path': 'vp'}, 'none', 'choose'),
  ({'solver': 'dopri5', 'path': 'discrete'}, 'none', 'choose'),
  ({'solver': 'ddim:eta=0.5', 'path': 'discrete'}, 'cfg++:0.1', 'choose'),
  ({'solver': 'ddim:clip=true', 'path': 'discrete'}, 'cfg++:0.1', 'choose'),
  ({'solver': 'ddpm', 'path': 'discrete'}, 'none',
   'choose ddpm:variance=small'),
  # These combinations are valid.
  ({'solver': 'euler'}, 'cfg++:0.1', None),
  ({'solver': 'ddim', 'path': 'cosine'}, 'cfg++:0.1', None),
  ({'solver': 'dopri5'}, 'apg:2,slg:2:blocks=1', None),
  ({'solver': 'dopri5', 'path': 'cosine'}, 'cfg_zero:2:zero_steps=0', None),
  ({'solver': 'heun'}, 'cfg_zero:2:zero_steps=2', None),
  ({'solver': 'ddpm:variance=small', 'path': 'discrete'}, 'none', None),
])  # fmt: skip
def test_check_before_anything_is_compiled(changes, guidance, message):
  path = path_named(changes.get('path', 'linear'))
  changes = {key: changes[key] for key in changes if key != 'path'}

  def check():
    config = dataclasses.replace(SAMPLING, **{'batch_size': 16, **changes})
    make_sampler(Toy(), config, path=path).check(parse(guidance))

  if message is None:
    check()
    return
  with pytest.raises(InputError, match=message) as error:
    check()
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('shape', [(7, 8, 3), (4, 4, 4), (8, 5, 1)])
def test_fdg_needs_images_that_can_be_halved(denoiser, shape):
  config = dataclasses.replace(SAMPLING, batch_size=8)
  make_sampler(denoiser, config, shape=(8, 12, 3)).check(parse('fdg:2'))
  with pytest.raises(InputError, match=f'latents are {shape[0]} x {shape[1]}'):
    make_sampler(denoiser, config, shape=shape).check(parse('fdg:2'))
