"""Muon matches the public code, for our weight layout and sharded weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from networks import assert_close

from configs import base
from dit import model
from dit.config import FAMILIES
from dit.sharding import MeshConfig, batch_sharding, make_mesh
from dit.weights import convert
from train import state
from train.muon import (
  MuonState,
  groups,
  newton_schulz,
  scale_by_muon,
  shape_factor,
)
from train.optimizer import OptimizerConfig, make_optimizer
from train.step import make_train_step

UNIT = 'ig_lightningdit/muon_unit.npz'
MATRICES = ('wide', 'tall', 'square', 'lowrank')
CONFIG = OptimizerConfig(
  **base.get_config().optimizer.to_dict()
  | {'name': 'muon', 'lr': 0.1, 'b2': 0.95, 'weight_decay': 0.3}
)


def relative(ours, golden):
  return np.linalg.norm(ours - golden) / np.linalg.norm(golden)


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('name', MATRICES)
def test_newton_schulz_in_bfloat16(name):
  """bfloat16 results match the published code (exactly on our machine)."""
  golden = reference.read(UNIT)
  ours = newton_schulz(golden[f'{name}/G'])
  exact, expected = golden[f'{name}/ns5_f64'], golden[f'{name}/ns5_bf16']
  # Rounding depends on the machine, so the limit is the reference's own error.
  assert relative(ours, expected) < relative(expected, exact)


@pytest.mark.parametrize('name', MATRICES)
def test_update_in_float64(name):
  golden = reference.read(UNIT)
  with jax.enable_x64(True):
    g, m = (jnp.float64(golden[f'{name}/{k}']) for k in ('G', 'momentum_in'))
    x = newton_schulz(g, dtype='float64')
    update, after = scale_by_muon(0.95, 'float64').update(
      {'kernel': g.T}, MuonState({'kernel': m.T})
    )
    update, m = update['kernel'].T, after.momentum['kernel'].T
  factor = golden[f'{name}/lr_factor']
  for ours, expected in (
    (x, golden[f'{name}/ns5_f64']),
    (update, factor * golden[f'{name}/update_f64']),
    (m, golden[f'{name}/momentum_out_f64']),
  ):
    assert relative(np.asarray(ours), expected) < 1e-12


def test_factor_of_convolutions():
  # For a convolution, the published factor uses the shape before flattening.
  factor = shape_factor('patch_embed/kernel', 16, 8 * 2 * 2)
  conv = reference.read(UNIT)['conv_lr_factor_shape_16_8_2_2']
  np.testing.assert_allclose(factor, conv, rtol=1e-12)


@pytest.mark.parametrize('path, shape, rows, columns', [
  ('blocks/mlp/fc1/kernel', (3, 8, 32), 32, 8),
  ('blocks/mlp/fc2/kernel', (3, 32, 8), 8, 32),
  ('label_embed', (11, 4), 11, 4),
])  # fmt: skip
def test_factors_are_of_the_published_shape(path, shape, rows, columns):
  u = random(*shape)
  tree = convert.unflatten({path: u})
  muon = scale_by_muon(0.0, 'float32')
  update, _ = muon.update(tree, muon.init(tree))
  expected = newton_schulz(u, dtype='float32')
  expected *= max(1, rows / columns) ** 0.5 * 0.2 * max(rows, columns) ** 0.5
  np.testing.assert_allclose(convert.flatten(update)[path], expected, atol=1e-5)


@pytest.mark.parametrize('shape', [(24, 40), (40, 24), (32, 32)])
def test_newton_schulz_follows_transposition_and_permutation(shape):
  u = random(*shape)
  x = newton_schulz(u, dtype='float32')
  turned = newton_schulz(u.T[::-1], dtype='float32').T[:, ::-1]
  np.testing.assert_allclose(turned, x, atol=1e-5)
  values = np.linalg.svd(x, compute_uv=False)
  assert np.all((values > 0.6) & (values < 1.3)), values


def test_stacked_matrices_are_taken_one_by_one():
  muon = scale_by_muon(0.9, 'float32')
  stack = random(3, 2, 8, 12)

  def direction(kernel):
    tree = {'kernel': kernel}
    return muon.update(tree, muon.init(tree))[0]['kernel']

  whole = direction(stack)
  for index in np.ndindex(3, 2):
    alone = direction(stack[index])
    np.testing.assert_allclose(whole[index], alone, atol=1e-5)


def follow(config, params, gradients):
  optimizer = make_optimizer(config, optax.constant_schedule(config.lr))
  params = jax.tree.map(jnp.asarray, params)
  opt_state = optimizer.init(params)
  for gradient in gradients:
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_decay_is_of_matrices_and_takes_the_plain_rate():
  params = {
    name: random(4, 6) for name in ('kernel', 'label_embed', 'bias', 'rotary')
  }
  zeros = jax.tree.map(np.zeros_like, params)
  moved = follow(CONFIG, params, [zeros, zeros])
  for name, value in params.items():
    factor = (1 - 0.1 * 0.3) ** 2 if name in ('kernel', 'label_embed') else 1
    np.testing.assert_allclose(moved[name], factor * value, rtol=1e-6)


def test_average_and_look_ahead():
  """A Nesterov update adds the new gradient to the momentum twice."""
  config = dataclasses.replace(
    CONFIG, clip=0, weight_decay=0, momentum=0.8, muon_dtype='float32'
  )
  first, second = random(4, 6, seed=1), random(4, 6, seed=2)
  params = {'kernel': np.zeros((4, 6), np.float32)}
  ours = follow(config, params, [{'kernel': first}, {'kernel': second}])
  m_1 = 0.2 * first
  m_2 = 0.8 * m_1 + 0.2 * second
  expected = newton_schulz(0.8 * m_1 + 0.2 * first, dtype='float32')
  expected += newton_schulz(0.8 * m_2 + 0.2 * second, dtype='float32')
  expected *= -0.1 * shape_factor('kernel', 6, 4)
  np.testing.assert_allclose(ours['kernel'], expected, rtol=1e-4, atol=1e-6)


def test_biases_and_gains_follow_adam():
  names = ('bias', 'scale')
  params = {name: random(5, seed=1) for name in names}
  gradients = [
    {name: random(5, seed=seed) for name in names} for seed in range(2, 5)
  ]
  ours = follow(CONFIG, params, gradients)
  adamw = dataclasses.replace(CONFIG, name='adamw', weight_decay=0)
  assert_close(ours, follow(adamw, params, gradients), rtol=1e-6)


@pytest.fixture(params=['SiT', 'LightningDiT'])
def any_config(request, config):
  family = FAMILIES[request.param]
  return dataclasses.replace(config, qk_norm=family['norm'], **family)


def test_every_parameter_has_its_group(any_config):
  expected = {'kernel': 'muon', 'label_embed': 'muon', 'bias': 'adam',
              'scale': 'adam', 'position': 'frozen',
              'rotary': 'frozen'}  # fmt: skip
  found = groups(model.shapes(any_config))
  for path, group in jax.tree.leaves_with_path(found):
    assert group == expected[path[-1].key], path


def test_momentum_lives_where_its_parameter_does(any_config):
  optimizer = make_optimizer(CONFIG, optax.constant_schedule(1e-3))
  mesh = make_mesh(MeshConfig(data=1, fsdp=8))
  abstract = state.abstract(any_config, optimizer, mesh)
  params = convert.flatten(abstract.params)
  momentum = convert.flatten(momentum_of(abstract))
  assert momentum.keys() == params.keys()
  for path, leaf in momentum.items():
    if path.endswith(('kernel', 'label_embed')):
      assert leaf == params[path], path
    else:
      assert not jax.tree.leaves(leaf), path


def momentum_of(train_state):
  return train_state.opt_state[1].inner_states['muon'].inner_state[0].momentum


@pytest.mark.parametrize('name', ['position', 'rotary'])
def test_tables_stay_bit_for_bit(name):
  params = {name: random(4, 6), 'kernel': random(4, 6)}
  gradient = {key: random(4, 6, seed=1) for key in params}
  moved = follow(CONFIG, params, [gradient] * 3)
  np.testing.assert_array_equal(moved[name], params[name])
  assert (np.asarray(moved['kernel']) != params['kernel']).all()


def train(experiment, mesh):
  schedule = optax.constant_schedule(experiment.optimizer.lr)
  optimizer = make_optimizer(experiment.optimizer, schedule)
  abstract = state.abstract(experiment.model, optimizer, mesh)
  of = experiment.model, experiment.objective, optimizer, experiment.ema
  step = make_train_step(*of, abstract)
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 255, (16, 8, 8, 1)).astype(np.uint8),
    'label': rng.integers(0, 10, 16).astype(np.int32),
  }
  batch = jax.device_put(batch, batch_sharding(mesh))
  rows = []
  with jax.set_mesh(mesh):
    current = state.init(experiment.model, optimizer, mesh, seed=0)
    for _ in range(3):
      current, metrics = step(current, batch, jax.random.key(0))
      rows.append(jax.tree.map(float, metrics))
  return current, rows


@pytest.mark.slow
def test_state_is_cut_and_eight_devices_train_as_one(make_experiment):
  experiment = make_experiment(
    'optimizer.name=muon', 'optimizer.muon_dtype=float32',
    'optimizer.weight_decay=0.01', 'objective.cosine_weight=1.0',
  )  # fmt: skip
  one = train(experiment, make_mesh(MeshConfig(), jax.devices()[:1]))
  eight = train(experiment, make_mesh(MeshConfig(data=2, fsdp=4)))
  for ours, expected in zip(eight[1], one[1], strict=True):
    for name, value in expected.items():
      np.testing.assert_allclose(ours[name], value, rtol=1e-3, err_msg=name)
  assert_close(eight[0].params, one[0].params, atol=1e-5)
  kernel = momentum_of(eight[0])['blocks']['mlp']['fc1']['kernel']
  assert all(4 * s.data.size == kernel.size for s in kernel.addressable_shards)
