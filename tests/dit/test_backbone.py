"""Uses a ConvNet to test the properties that every backbone has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from convnet import CONVNET, registered  # noqa: F401 - a fixture
from networks import assert_close
from published_tensors import edit_config

from core.errors import InputError
from distill import run as distilling
from distill.config import build_student
from dit import backbone
from dit.sharding import MeshConfig, make_mesh
from dit.types import SubNetworks
from dit.weights import convert, folder
from train import config_file, state
from train.experiment import build
from train.runs import check_same

pytestmark = pytest.mark.usefixtures('registered')
CONFIG = CONVNET.ConvNetConfig(
  size=8, channels=1, num_classes=10, depth=3, width=16, taps=(1,)
)

apply = jax.jit(lambda denoiser, *args: denoiser(*args))


def perturbed():
  rng = np.random.default_rng(1)

  def draw(leaf):
    return jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)

  return backbone.bind(CONFIG, jax.tree.map(draw, backbone.shapes(CONFIG)))


def settings(*assignments):
  config = config_file.load_config('configs/digits.py')
  return build(config_file.override(config, assignments).to_dict())


def test_name_selects_the_backbone():
  experiment = settings('model.name=ConvNet-S', 'model.width=16')
  wanted = dataclasses.replace(CONFIG, depth=4, taps=(2,))
  assert experiment.model == wanted
  assert backbone.name_of(experiment.model) == 'ConvNet-S'
  experiment = settings('model.name=ConvNet-S', 'objective.label_dropout=0')
  assert not experiment.model.null_label
  assert backbone.name_of(settings().model) == 'SiT-Tiny/2'


@pytest.mark.parametrize(('assignments', 'message'), [
  (['model.name=ConvNet-L'], "expected one of ConvNet-S. Did you mean 'Conv"),
  (['model.name=ConvNot-S'], "SiT-XL/2.*or ConvNet-S. Did you mean 'ConvNet"),
  (['model.name=ConvNet-S', 'model.rope=true'], 'model.rope is .* no such'),
  (['model.name=ConvNet-S', 'model.mlp_ratio=2.0'], 'mlp_ratio is 2.0, but'),
  (['model.name=ConvNet-S', 'model.taps=(4,)'], 'depth - 1 = 3'),
  (['model.name=ConvNet-S', 'model.width=-1'], 'model.width is -1, expected'),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(assignments, message):
  with pytest.raises(InputError, match=message):
    settings(*assignments)


def test_sub_network_is_the_network_without_the_blocks():
  network = perturbed()
  x = jax.random.normal(jax.random.key(2), (4, 8, 8, 1))
  t, label = jnp.linspace(0.1, 0.9, 4), jnp.asarray([0, 3, 10, 9])
  keep = jnp.asarray([[True, False, True]])
  out = apply(network, x, t, label, SubNetworks(keep, every=2))
  layers = {
    name: {'kernel': network.params[name]['kernel'][keep[0]]}
    for name in ('first', 'change', 'second')
  }
  shorter = backbone.bind(
    dataclasses.replace(CONFIG, depth=2), {**network.params, **layers}
  )
  expected = apply(shorter, x[::2], t[::2], label[::2])
  assert_close(out.sub[0], expected, rtol=1e-5, atol=1e-5)
  assert np.abs(out.velocity[::2] - expected.velocity).max() > 1e-3


def test_without_taps_the_output_is_the_same():
  network = perturbed()
  config, params = backbone.without_taps(CONFIG, network.params)
  assert params.keys() == backbone.shapes(config).keys()
  assert config.taps == () and 'tap_1' in network.params.keys() - params.keys()
  batch = jnp.ones((2, 8, 8, 1)), jnp.ones(2), jnp.asarray([1, 10])
  without = apply(backbone.bind(config, params), *batch)
  assert without.intermediate == ()
  expected = apply(network, *batch).velocity
  np.testing.assert_array_equal(without.velocity, expected)


@pytest.mark.parametrize(
  'zero1', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_state_is_sharded_and_has_the_same_values(zero1):
  optimizer = optax.adam(1e-3)
  mesh = make_mesh(MeshConfig(data=2, fsdp=4))
  sharded = state.init(CONFIG, optimizer, mesh, 7, zero1=zero1)
  for tree, parts in ((sharded.params, 4), (sharded.ema, 4 * (1 + zero1))):
    kernel = tree['first']['kernel']
    shard = kernel.sharding.shard_shape(kernel.shape)
    assert kernel.size == parts * np.prod(shard)
  whole = jax.jit(state.fresh, static_argnums=(0, 1))(CONFIG, optimizer, 7)
  assert_close(sharded, whole, rtol=1e-5, atol=1e-6)


def test_folder_of_weights_names_the_backbone(tmp_path):
  network = perturbed()
  folder.save_folder(tmp_path / 'net', CONFIG, network.params, info={'a': 1})
  config, params, info = folder.load_folder(tmp_path / 'net')
  assert config == CONFIG and info == {'a': 1}
  jax.tree.map(np.testing.assert_array_equal, params, network.params)
  edit_config(tmp_path / 'net', backbone='Unknown')
  with pytest.raises(InputError, match='backbone = "Unknown", which is not in'):
    folder.load_folder(tmp_path / 'net')
  with pytest.raises(InputError, match=r'transformer .* ConvNetConfig'):
    convert.to_published(CONFIG, params, family='sit')


def test_a_run_does_not_start_with_weights_of_another_backbone(tmp_path):
  folder.save_folder(tmp_path / 'net', CONFIG, perturbed().params, info={})
  source = distilling.Source.at(str(tmp_path / 'net'))
  with pytest.raises(InputError, match='holds a ConvNet-S, not a SiT-Tiny/2'):
    check_same(settings(), source)


@pytest.mark.parametrize(('assignment', 'message'), [
  ('distill.fake=lora', 'distill.fake=lora is for the transformers'),
  ('distill.gan_weight=0.001', 'a discriminator is for the transformers'),
])  # fmt: skip
def test_losses_on_hidden_states_are_for_transformers(assignment, message):
  config = config_file.load_config('configs/distill/digits.py:hybrid,2')
  words = ['model.name=ConvNet-S', 'distill.teacher=t', assignment]
  experiment = build_student(config_file.override(config, words).to_dict())
  distillation = distilling.distillation_of(experiment, CONFIG)
  with pytest.raises(InputError, match=message):
    distilling._check_backbone(distillation)
