import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from core.errors import InputError
from dit import model
from dit.sharding import (
  MeshConfig,
  check_batch,
  check_model,
  make_mesh,
  spec,
  tree_shardings,
)
from train import state


@pytest.mark.parametrize(('asked', 'sizes'), [
  ((-1, 1), (8, 1, 1)), ((2, -1), (2, 4, 1)), ((1, 8), (1, 8, 1)),
  ((-1, 2, 2), (2, 2, 2)), ((1, 1, -1), (1, 1, 8)),
])  # fmt: skip
def test_mesh_sizes(asked, sizes):
  mesh = make_mesh(MeshConfig(*asked))
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')
  assert mesh.devices.shape == sizes


def test_mesh_of_some_devices():
  devices = jax.devices()[2:6]
  mesh = make_mesh(MeshConfig(fsdp=2), devices)
  assert mesh.devices.shape == (2, 2, 1)
  assert mesh.devices.flatten().tolist() == devices


@pytest.mark.parametrize(
  'asked',
  [(3, 1), (-1, 3), (2, 2), (16, 1), (-1, -1), (0, 8), (2, 2, 3)],
)
def test_mesh_that_does_not_fit(asked):
  with pytest.raises(InputError, match='the 8 devices at hand'):
    make_mesh(MeshConfig(*asked))


@pytest.mark.parametrize(('sizes', 'zero1', 'message'), [
  ((1, 2, 4), True, None),
  ((1, 1, 8), False, r'num_heads is 4, which mesh\.tensor=8'),
  ((1, 5, 1), False, r'width is 32, which mesh\.fsdp=5'),
  ((5, 1, 1), False, None),
  ((5, 1, 1), True, r'width is 32, which mesh\.data times fsdp=5 .*zero1'),
])  # fmt: skip
def test_the_mesh_must_divide_the_network(config, sizes, zero1, message):
  devices = jax.devices()[: int(np.prod(sizes))]
  mesh = make_mesh(MeshConfig(*sizes), devices)
  if message is None:
    check_model(mesh, config, zero1=zero1)
  else:
    with pytest.raises(InputError, match=message):
      check_model(mesh, config, zero1=zero1)


def test_tensor_cuts_the_large_matrices(config):
  mesh = make_mesh(MeshConfig(fsdp=2, tensor=4))
  blocks = tree_shardings(model.shapes(config), mesh)['blocks']
  for layer, axes in (
    (blocks['attention']['qkv'], (None, 'fsdp', 'tensor')),
    (blocks['attention']['proj'], (None, 'tensor', 'fsdp')),
    (blocks['mlp']['fc1'], (None, 'fsdp', 'tensor')),
    (blocks['mlp']['fc2'], (None, 'tensor', 'fsdp')),
    (blocks['modulation'], (None, 'fsdp', 'tensor')),
  ):
    assert tuple(layer['kernel'].spec) == axes


def test_zero1_cuts_the_optimizer_and_not_the_parameters(config, optimizer):
  mesh = make_mesh(MeshConfig(data=4, fsdp=2))
  shapes = state.abstract(config, optimizer, mesh, zero1=True)

  def parts(tree):
    kernel = tree['blocks']['mlp']['fc1']['kernel']
    return kernel.size // np.prod(kernel.sharding.shard_shape(kernel.shape))

  assert parts(shapes.params) == 2
  moments = shapes.opt_state[0]
  assert [*map(parts, (moments.mu, moments.nu, shapes.ema))] == [8, 8, 8]


@pytest.mark.parametrize(
  'changes', [{}, {'qk_norm': 'layernorm'}, {'tap_head': 'block'}]
)
def test_every_parameter_has_a_rule(config, changes):
  config = dataclasses.replace(config, **changes)
  assert config.taps
  mesh = make_mesh(MeshConfig(fsdp=8, data=1))
  shardings = tree_shardings(model.shapes(config), mesh)
  # Matrices are sharded. Positions, biases and gains are replicated.
  for path, sharding in jax.tree.leaves_with_path(shardings):
    matrix = path[-1].key in ('kernel', 'label_embed')
    assert ('fsdp' in sharding.spec) == matrix, path


@pytest.mark.parametrize('name', ['kernel', 'blocks/mlp/fc3/kernel', 'unbias'])
def test_unknown_parameter_raises(name):
  with pytest.raises(ValueError, match=f"no sharding rule for '{name}'"):
    spec(name, (4, 4), make_mesh(MeshConfig()))


def test_axis_that_does_not_divide_stays_whole():
  mesh = make_mesh(MeshConfig(data=1, fsdp=8))
  assert not any(spec('head/proj/kernel', (12, 6), mesh))
  assert spec('head/proj/kernel', (16, 6), mesh)[0] == 'fsdp'


@pytest.fixture(scope='module')
def optimizer():
  return optax.adam(1e-3)


@pytest.fixture(scope='module')
def whole(config, optimizer):
  return jax.jit(functools.partial(state.fresh, config, optimizer, 7))()


@pytest.mark.parametrize(
  ('data', 'fsdp'), [pytest.param(1, 8, marks=pytest.mark.slow), (2, 4)]
)
def test_state_is_cut_and_has_the_same_values(
  config, optimizer, whole, data, fsdp
):
  mesh = make_mesh(MeshConfig(data, fsdp))
  sharded = state.init(config, optimizer, mesh, 7)
  assert sharded.step.sharding.is_fully_replicated
  moments = sharded.opt_state[0]
  for tree in (sharded.params, sharded.ema, moments.mu, moments.nu):
    kernel = tree['blocks']['mlp']['fc1']['kernel']
    assert len(kernel.addressable_shards) == 8
    for shard in kernel.addressable_shards:
      assert shard.data.size * fsdp == kernel.size
    for path, leaf in jax.tree.leaves_with_path(tree):
      matrix = path[-1].key in ('kernel', 'label_embed')
      assert leaf.sharding.is_fully_replicated != matrix, path
  jax.tree.map(np.testing.assert_array_equal, sharded, whole)


@pytest.mark.parametrize('batch_size', [0, 4, 12, -8])
def test_batch_that_does_not_divide(batch_size):
  message = f'data.batch_size is {batch_size}, expected .* multiple of 8'
  with pytest.raises(InputError, match=message):
    check_batch(make_mesh(MeshConfig()), batch_size, 'data.batch_size')


def test_batch_that_divides():
  for config in (MeshConfig(), MeshConfig(2, 4)):
    check_batch(make_mesh(config), 16, 'data.batch_size')
  # Devices along the axis `tensor` share rows, so a batch of 4 rows suffices.
  check_batch(make_mesh(MeshConfig(2, 2, 2)), 4, 'data.batch_size')


def test_accumulated_parts_must_divide_too():
  mesh = make_mesh(MeshConfig())
  check_batch(mesh, 16, 'train.batch_size', parts=2)
  with pytest.raises(InputError, match=r'16, expected .* multiple of 32'):
    check_batch(mesh, 16, 'train.batch_size', parts=4)
