"""Recipes in configs/ have the published settings, and refuse bad arguments."""

import pathlib

import jax
import pytest

from configs import sit
from core.errors import InputError
from dit import backbone
from train import config_file
from train.experiment import build

ROOT = pathlib.Path(__file__).parents[2]


def recipe(spec):
  config = config_file.load_config(str(ROOT / 'configs' / spec))
  return build(config.to_dict())


@pytest.mark.parametrize('size', ['S', 'B', 'L', 'XL'])
@pytest.mark.parametrize('options', ['', ',ig', ',ig,accelerated'])
def test_sit(size, options):
  run = recipe(f'sit.py:{size}/2{options}')
  assert run.model.taps == ({'S': 4, 'B': 4}.get(size, 8),) * bool(options)
  assert run.model.latent_shape == (32, 32, 4)
  rule = run.optimizer
  assert (rule.name, rule.lr, rule.b1, rule.b2) == ('adamw', 1e-4, 0.9, 0.999)
  assert (rule.weight_decay, rule.clip, rule.warmup_images) == (0, 1, 0)
  assert (rule.schedule, rule.eps) == ('constant', 1e-8)
  assert (run.ema.decay, run.ema.ramp) == (0.9999, False)
  loss = run.objective
  assert (loss.path, loss.time_sampling) == ('linear', 'uniform')
  assert loss.label_dropout == 0.1
  assert loss.weights(len(run.model.taps)) == (0.5,) * bool(options)
  assert loss.cosine_weight == 0
  assert bool(loss.guided_weight) == ('accelerated' in options)
  assert run.train.batch_size == 256
  data = run.data
  assert (data.autoencoder, data.statistics) == ('sd_vae', 'autoencoder')
  assert not data.flip


def test_sits_own_recipe_mirrors_and_does_not_clip():
  """Where REPA and SiT's train.py differ, this recipe follows train.py."""
  run, shared = recipe('sit.py:XL/2,original'), recipe('sit.py:XL/2')
  assert run.optimizer.clip == 0 and run.data.flip
  assert run.train.images == 1400 * 1_281_167
  assert run.model.taps == ()
  # Model, objective, learning rate and EMA are the same as in REPA.
  assert run.model == shared.model and run.objective == shared.objective
  assert (run.optimizer.lr, run.ema) == (shared.optimizer.lr, shared.ema)
  assert (shared.optimizer.clip, shared.data.flip) == (1, False)
  assert shared.train.images == 800 * 1_281_167
  assert '1,400 epochs  cfg:1.5 of three channels 2.06' in sit.__doc__
  with pytest.raises(InputError, match='original is the recipe of SiT alone'):
    recipe('sit.py:XL/2,ig,original')


def test_lightningdit_with_ig():
  run = recipe('lightningdit.py:XL/1,ig')
  assert run.model.taps == (8,)
  assert run.model.latent_shape == (16, 16, 32)
  assert (run.model.norm, run.model.mlp, run.model.rope) == (
    'rmsnorm', 'swiglu', True,
  )  # fmt: skip
  rule = run.optimizer
  assert (rule.name, rule.lr, rule.momentum) == ('muon', 2e-4, 0.95)
  assert (rule.weight_decay, rule.clip) == (0.01, 1)
  assert (rule.b1, rule.b2, rule.muon_dtype) == (0.9, 0.95, 'bfloat16')
  assert run.ema.decay == 0.9999
  assert run.objective.cosine_weight == 1
  assert run.objective.time_sampling == 'uniform'
  assert run.objective.weights(1) == (0.5,)
  assert run.train.batch_size == 256
  assert run.data.flip


def test_lightningdit_alone():
  run = recipe('lightningdit.py:XL/1')
  assert run.model.taps == ()
  assert (run.optimizer.name, run.train.batch_size) == ('adamw', 1024)
  assert run.objective.time_sampling == 'logit_normal'


def test_dit():
  run = recipe('dit.py')
  assert (run.model.convention, run.model.learned_variance) == ('noise', True)
  assert (run.objective.prediction, run.objective.path) == ('noise', 'discrete')
  assert run.optimizer.clip == 0
  assert run.sample.respacing == '250'


def test_cifar10_has_about_30_million_parameters():
  run = recipe('cifar10.py')
  assert run.model.latent_shape == (32, 32, 3)
  assert len(run.model.taps) == 1


@pytest.mark.parametrize(
  'spec',
  ['sit.py:XXL/2', 'sit.py:XL/2,xyz', 'lightningdit.py:XL/1,igs', 'dit.py:Q/2'],
)
def test_other_arguments_are_refused(spec):
  with pytest.raises(InputError, match='is not SIZE/PATCH'):
    recipe(spec)


def test_small_recipes_for_two_cores():
  for spec, shape, depth, tap, millions in (
    ('fashion_mnist.py', (28, 28, 1), 6, 2, 1.9),
    ('cifar10.py:small', (32, 32, 3), 8, 3, 5.3),
  ):
    run = recipe(spec)
    assert run.model.latent_shape == shape
    assert (run.model.depth, run.model.taps) == (depth, (tap,))
    assert run.model.patch == 4
    count = sum(x.size for x in jax.tree.leaves(backbone.shapes(run.model)))
    assert count / 1e6 == pytest.approx(millions, rel=0.1)
  with pytest.raises(InputError, match='small'):
    recipe('cifar10.py:smal')
