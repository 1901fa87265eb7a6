"""Tests intermediate heads that are trained on a frozen network."""

import jax
import networks
import numpy as np
import pytest
from command_runs import ROOT
from test_step import BATCH, make_batch

from core.errors import InputError
from dit import backbone
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from dit.weights import convert
from dit.weights import folder as weights
from dit.weights.files import read_tensors
from guidance import parse
from sample.generate import SampleConfig, Sampler, plan_labels
from train import loop, runs
from train.step import make_train_step

HEADS = {'tap_heads', 'tap_blocks'}


def names(tree):
  """Returns the paths of the arrays in a tree."""
  leaves = jax.tree.leaves_with_path(tree)
  return [jax.tree_util.keystr(path) for path, _ in leaves]


def count_values(tree):
  return sum(map(np.size, jax.tree.leaves(tree)))


@pytest.fixture(scope='module')
def trunk(make_experiment, tmp_path_factory):
  """A folder with a network that has no tap."""
  config = make_experiment('model.taps=()').model
  params = jax.device_get(networks.perturbed(config).params)
  place = tmp_path_factory.mktemp('trunk') / 'net'
  weights.save_folder(place, config, params, info={})
  return place, params


def train_heads(experiment, steps, make_data=make_batch, sizes=()):
  """Returns the first and the last state of a run, and the tap's losses."""
  mesh = make_mesh(MeshConfig(*sizes))
  with jax.set_mesh(mesh):
    _, optimizer, abstract = loop.plan(experiment, mesh)
    step = make_train_step(
      experiment.model, experiment.objective, optimizer, experiment.ema,
      abstract, parameters=experiment.train.parameters,
    )  # fmt: skip
    state = loop.fresh(experiment, optimizer, mesh)
    first, losses = jax.device_get(state), []
    for _ in range(steps):
      state, metrics = step(state, make_data(mesh), jax.random.key(0))
      losses.append(float(metrics['loss/intermediate_1']))
    return first, jax.device_get(state), losses


@pytest.mark.parametrize('kind', ['linear', 'block'])
def test_only_the_heads_learn(make_experiment, trunk, kind):
  place, params = trunk
  experiment = make_experiment(
    'model.taps=(1,)', f'model.tap_head={kind}', 'train.parameters=taps',
    f'train.init_from={place}', 'optimizer.lr=1e-2',
    f'train.batch_size={BATCH}',
  )  # fmt: skip
  runs.check_start(experiment)
  first, last, losses = train_heads(experiment, 12)
  heads = HEADS if kind == 'block' else {'tap_heads'}
  assert first.params.keys() - params.keys() == heads
  # The optimizer has state for the heads alone.
  moments = [name for name in names(last.opt_state) if 'kernel' in name]
  assert moments
  assert all(any(head in name for head in heads) for name in moments)
  values = sum(count_values(last.params[head]) for head in heads)
  assert 2 * values <= count_values(last.opt_state) < 2 * values + 10
  # The frozen network does not change by a bit, in parameters and averages.
  for tree in (first.params, last.params, last.ema):
    for name, value in params.items():
      networks.assert_same(tree[name], value)
  for head in heads:
    changes = jax.tree.map(
      np.array_equal, first.params[head], last.params[head]
    )
    assert not any(jax.tree.leaves(changes))
  assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('sizes', 'assignments'),
  [((1, 8, 1), []), ((2, 4, 1), ['mesh.zero1=true']), ((4, 1, 2), [])],
)
def test_every_mesh_trains_the_heads_alike(
  make_experiment, trunk, sizes, assignments
):
  place, params = trunk
  keys = (
    'model.taps=(1,)', 'model.tap_head=block', 'train.parameters=taps',
    f'train.init_from={place}', 'optimizer.lr=1e-2',
    f'train.batch_size={BATCH}',
  )  # fmt: skip
  _, _, expected = train_heads(make_experiment(*keys), 6)
  experiment = make_experiment(*keys, *assignments)
  _, last, losses = train_heads(experiment, 6, sizes=sizes)
  np.testing.assert_allclose(losses, expected, rtol=1e-4)
  for name, value in params.items():
    networks.assert_same(last.params[name], value)


def test_equal_heads_are_loaded_too(make_experiment, tmp_path):
  config = make_experiment('model.taps=(1,)').model
  params = jax.device_get(networks.perturbed(config).params)
  weights.save_folder(tmp_path / 'net', config, params, info={})
  experiment = make_experiment(
    'model.taps=(1,)', 'train.parameters=taps',
    f'train.init_from={tmp_path}/net',
  )  # fmt: skip
  loaded = runs.start_weights(experiment, make_mesh(MeshConfig()))
  networks.assert_same(loaded, params)
  # Another precision is no reason to leave heads out.
  narrow = make_experiment(
    'model.taps=(1,)', 'model.param_dtype=bfloat16',
    f'train.init_from={tmp_path}/net',
  )  # fmt: skip
  runs.check_start(narrow)
  loaded = runs.start_weights(narrow, make_mesh(MeshConfig()))
  assert loaded.keys() == params.keys()
  other = make_experiment(
    'model.taps=(1,)', 'model.tap_head=block', 'train.parameters=taps',
    f'train.init_from={tmp_path}/net',
  )  # fmt: skip
  loaded = runs.start_weights(other, make_mesh(MeshConfig()))
  assert params.keys() - loaded.keys() == {'tap_heads'}


@pytest.mark.parametrize(
  ('assignments', 'words'),
  [
    (['model.taps=()', 'train.init_from=x'], 'needs model.taps'),
    (['model.taps=(1,)'], 'needs train.init_from'),
    (['model.taps=(1,)', 'train.init_from=x', 'train.parameters=head'], 'taps'),
    (['train.init_from=x', 'objective.intermediate_weights=(0.0,)'], 'nothing'),
    (['train.init_from=x', 'objective.cosine_weight=1.0'], 'freezes'),
  ],
)
def test_what_is_refused(make_experiment, assignments, words):
  with pytest.raises(InputError, match=words):
    make_experiment('train.parameters=taps', *assignments)


def test_without_the_key_other_heads_are_refused(make_experiment, trunk):
  place, _ = trunk
  experiment = make_experiment('model.taps=(1,)', f'train.init_from={place}')
  with pytest.raises(InputError, match='taps'):
    runs.check_start(experiment)


@pytest.mark.slow
def test_published_weights_get_a_head_and_sample(make_experiment, tmp_path):
  """Golden SiT weights, in a converted folder, sample with a new head."""
  source = ROOT / 'tests' / 'golden' / 'sit_upstream' / 'model.safetensors'
  config, params = convert.from_published(
    read_tensors(source)[0], family='sit', num_heads=4
  )
  weights.save_folder(tmp_path / 'net', config, params, info={})
  experiment = make_experiment(
    *(
      f'model.{name}={getattr(config, name)}'
      for name in (
        'depth', 'width', 'num_heads', 'size', 'channels', 'num_classes',
        'convention',
      )
    ),
    f'model.name=SiT-S/{config.patch}', 'model.taps=(1,)',
    'model.learned_variance=true',
    'model.tap_head=block', 'train.parameters=taps',
    f'train.init_from={tmp_path}/net',
  )  # fmt: skip
  runs.check_start(experiment)
  rng = np.random.default_rng(0)
  batch = {
    'image': np.float32(rng.uniform(0, 255, (BATCH, 8, 8, 4))),
    'label': np.arange(BATCH, dtype=np.int32) % config.num_classes,
  }
  _, state, losses = train_heads(experiment, 8, lambda mesh: batch)
  assert losses[-1] < losses[0]
  mesh = make_mesh(MeshConfig())
  sampler = Sampler(
    backbone.bind(experiment.model, state.ema),
    SampleConfig(solver='euler', steps=3, last_step_size=0.0, batch_size=8),
    path_named('linear'), experiment.model.latent_shape, mesh,
  )  # fmt: skip
  labels = plan_labels('balanced', 8, config.num_classes, 0)
  plain, guided = (
    sampler.images(parse(text), labels, 0).images for text in ('none', 'ig:2')
  )
  assert np.abs(plain.astype(int) - guided).max() > 0
