"""Published tensors convert exactly, and invalid tensors are refused."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_tensors import (
  PLAIN,
  frozen,
  make_config,
  random_params,
  random_tensors,
  read,
  same_bits,
  write,
)
from refusals import refused

from dit import model
from dit.config import DiTConfig, named_size
from dit.weights import convert

pytestmark = pytest.mark.usefixtures('traced_once')


def architectures():
  """Yields networks of every family with all combinations of options.

  Three combinations per family, which cover all values, are not marked slow.
  """
  qk_norm, flag = ('none', 'layernorm', 'rmsnorm'), (False, True)
  some = {'qk_norm': qk_norm, 'learned_variance': flag}
  every = {'norm': ('layernorm', 'rmsnorm'), 'mlp': ('gelu', 'swiglu'),
           'rope': flag, 'shift': flag, **some}  # fmt: skip
  for family in convert.FAMILIES:
    choices = some if family in PLAIN else every
    few = [[c[k % len(c)] for c in choices.values()] for k in range(3)]
    for values in itertools.product(*choices.values()):
      marks = () if [*values] in few else pytest.mark.slow
      changes = dict(zip(choices, values, strict=True))
      yield pytest.param(family, changes, marks=marks)


@pytest.mark.parametrize(('family', 'changes'), [*architectures()])
def test_round_trip_is_bitwise_and_infers_the_network(family, changes):
  config = make_config(family, **changes)
  tensors = random_tensors(config)
  inferred, params = read(tensors, family)
  assert inferred == config
  flat = frozen(convert.flatten(params))
  shapes = convert.flatten(model.shapes(config))
  assert jax.tree.map(np.shape, dict(flat)) == jax.tree.map(np.shape, shapes)
  same_bits(write(config, flat, family), tensors)


@pytest.mark.parametrize(
  'mlp', [pytest.param('gelu', marks=pytest.mark.slow), 'swiglu']
)
def test_every_hidden_width_comes_back(mlp):
  hidden = set()
  for ratio in (2.67, 3.3, 4.0, 4.1, *np.arange(3, 24) / 16):
    config = make_config('lightningdit', mlp=mlp, mlp_ratio=ratio, width=16)
    inferred, _ = read(random_tensors(config), 'lightningdit')
    assert inferred.hidden == config.hidden
    assert dataclasses.replace(inferred, mlp_ratio=ratio) == config
    assert ratio != 4 or inferred.mlp_ratio == 4
    hidden.add(inferred.hidden)
  assert hidden >= {*range(3, 16)}


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64', '>f4'])
def test_other_floats_become_float32(dtype):
  config = make_config('ig_lightningdit')
  rng = np.random.default_rng(0)
  tensors = frozen({
    name: np.asfortranarray(rng.normal(size=shape)).astype(jnp.dtype(dtype))
    for name, shape in convert.published_shapes(config).items()
  })  # fmt: skip
  inferred, params = read(tensors, 'ig_lightningdit')
  assert inferred == config
  expected = {name: t.astype(np.float32) for name, t in tensors.items()}
  flat = convert.flatten(params)
  same_bits(write(config, flat, 'ig_lightningdit'), expected)
  assert all(leaf.dtype == np.float32 for leaf in flat.values())
  # Conversion from JAX arrays of the same precision keeps the values.
  if dtype in ('float16', 'bfloat16'):
    narrow = {path: jnp.asarray(leaf, dtype) for path, leaf in flat.items()}
    same_bits(write(config, narrow, 'ig_lightningdit'), expected)


def shared(arrays, others):
  pairs = itertools.product(arrays.values(), others.values())
  return any(np.shares_memory(ours, theirs) for ours, theirs in pairs)


def test_results_share_no_memory():
  tensors = random_tensors(make_config('ig_lightningdit'))
  flat = convert.flatten(read(tensors, 'ig_lightningdit')[1])
  assert not shared(flat, tensors)
  assert all(leaf.flags.writeable for leaf in flat.values())
  flat = random_params(make_config('sit'))
  assert not shared(write(make_config('sit'), flat, 'sit'), flat)


def published_xl(kind, heads):
  """Returns tensor names and shapes of the authors' XL files."""
  d, lightning = 1152, kind == 'LightningDiT'
  outputs = 16 if kind == 'SiT' else 32
  parts = {'attn.qkv': (3 * d, d), 'attn.proj': (d, d),
           'adaLN_modulation.1': (6 * d, d)}  # fmt: skip
  if lightning:
    parts |= {'mlp.w12': (2 * 3072, d), 'mlp.w3': (d, 3072)}
  else:
    parts |= {'mlp.fc1': (4 * d, d), 'mlp.fc2': (d, 4 * d)}
  patches = (d, 32, 1, 1) if lightning else (d, 4, 2, 2)
  layers = {'x_embedder.proj': patches, 't_embedder.mlp.0': (d, 256),
            't_embedder.mlp.2': (d, d)}  # fmt: skip
  gains = []
  for i in range(28):
    layers |= {f'blocks.{i}.{part}': shape for part, shape in parts.items()}
    gains += [f'blocks.{i}.norm1.weight', f'blocks.{i}.norm2.weight']
  for head in heads:
    layers[f'{head}.linear'] = (outputs, d)
    layers[f'{head}.adaLN_modulation.1'] = (2 * d, d)
    gains.append(f'{head}.norm_final.weight')
  shapes = {'pos_embed': (1, 256, d),
            'y_embedder.embedding_table.weight': (1001, d)}  # fmt: skip
  shapes |= {f'{name}.weight': shape for name, shape in layers.items()}
  shapes |= {f'{name}.bias': shape[:1] for name, shape in layers.items()}
  if lightning:
    shapes |= dict.fromkeys(gains, (d,))
    shapes |= {f'feat_rope.freqs_{name}': (256, 72) for name in ('cos', 'sin')}
  return shapes


@pytest.mark.parametrize(('name', 'taps', 'tensors', 'values'), [
  ('SiT-XL/2', (8,), 296, 677_786_144),
  ('LightningDiT-XL/1', (8,), 356, 677_951_296 + 2 * 256 * 72),
  ('LightningDiT-XL/1', (), 351, 675_256_736 + 2 * 256 * 72),
  # The 675,129,632 parameters include 256 D for positions, where D = 1152. The
  # others are 28 (18 D^2 + 15 D) for blocks, D^2 + 258 D for time, 1001 D for
  # labels, 17 D for patches and 2 D^2 + 34 D + 32 for the head.
  ('DiT-XL/2', (), 292, 674_834_720 + 256 * 1152),
])  # fmt: skip
def test_published_networks(name, taps, tensors, values):
  size, channels = (16, 32) if name.startswith('L') else (32, 4)
  config = DiTConfig(size=size, channels=channels, num_classes=1000, taps=taps,
                     **named_size(name))  # fmt: skip
  heads = ['final_layer', 'final_layer_xr'][: 1 + len(taps)]
  shapes = convert.published_shapes(config)
  assert shapes == published_xl(name.partition('-')[0], heads)
  assert len(shapes) == tensors
  assert sum(map(math.prod, shapes.values())) == values


def test_shapes_of_what_no_memory_holds():
  large = make_config('sit', num_classes=10**6, width=2**16)
  shapes = convert.published_shapes(large)
  assert sum(map(math.prod, shapes.values())) > 2**36


@pytest.mark.parametrize('family', ['ig_lightningdit', 'sit'])
def test_missing_tensor(family):
  tensors = random_tensors(make_config(family))
  # Each key is a tensor that reveals an option of the network. Without this
  # tensor, a wrong option is inferred, and the error contains the key's value.
  telling = {'feat_rope.freqs_cos': 'feat_rope.freqs_sin',
             'blocks.0.norm1.weight': 'norm',
             'blocks.0.attn.q_norm.weight': 'blocks.0.attn.k_norm.weight',
             'blocks.0.mlp.w12.weight': 'blocks.0.mlp.'}  # fmt: skip
  for name in tensors:
    less = {key: tensor for key, tensor in tensors.items() if key != name}
    with refused('published tensor', telling.get(name, f'{name!r} is missing')):
      read(less, family)


@pytest.mark.parametrize(('family', 'names'), [
  ('sit', ['final_layer_xr.linear.weight', 'feat_rope.freqs_sin',
           'blocks.1.norm1.weight', 'blocks.1.attn.q_norm.weight']),
  ('ig_lightningdit', ['module.pos_embed', 'blocks.1.attn.q_norm.bias',
                       'blocks.1.mlp.fc1.weight', 'blocks.1', '']),
])  # fmt: skip
def test_tensor_without_a_place(family, names):
  tensors = dict(random_tensors(make_config(family)))
  for name in names:
    with refused(f'tensor {name!r} has no place', f'in family {family}'):
      read({**tensors, name: np.ones(8, np.float32)}, family)


@pytest.mark.parametrize('family', ['ig_lightningdit', 'sit'])
def test_misshapen_tensor(family):
  tensors = dict(random_tensors(make_config(family)))
  for name, tensor in tensors.items():
    first = tensor.ravel()[0]
    for wrong in (tensor[None], tensor[..., None], tensor[..., :0], first):
      with refused(f'tensor {name!r} has shape {wrong.shape}, expected'):
        read({**tensors, name: wrong}, family)


@pytest.mark.parametrize(('name', 'shape', 'named'), [
  ('blocks.1.attn.qkv.weight', (8, 24), 'blocks.1.attn.qkv.weight'),
  ('blocks.1.adaLN_modulation.1.bias', (32,), 'blocks.1.adaLN_modulation.1'),
  ('blocks.0.adaLN_modulation.1.weight', (40, 8), 'blocks.0.adaLN'),
  ('final_layer.linear.weight', (36, 8), 'final_layer.linear.weight'),
  ('final_layer.linear.weight', (12, 8), 'final_layer.linear.bias'),
  ('y_embedder.embedding_table.weight', (6, 9), 'y_embedder'),
  ('x_embedder.proj.weight', (8, 3, 2, 3), 'x_embedder.proj.weight'),
  ('x_embedder.proj.weight', (8, 3, 3, 3), 'final_layer.linear.weight'),
  ('pos_embed', (2, 4, 8), 'pos_embed'),
  ('pos_embed', (1, 4, 9), 'pos_embed'),
  ('pos_embed', (1, 5, 8), 'pos_embed has 5 tokens, not a square number'),
])  # fmt: skip
def test_shapes_that_contradict_each_other(name, shape, named):
  tensors = dict(random_tensors(make_config('sit', learned_variance=True)))
  tensors[name] = np.ones(shape, np.float32)
  with refused('published tensor', named):
    read(tensors, 'sit')


@pytest.mark.parametrize('dtype', [np.int8, bool, np.complex64, object, 'U4',
                                   jnp.float8_e4m3fn])  # fmt: skip
def test_tensor_of_no_floats(dtype):
  tensors = dict(random_tensors(make_config('ig_lightningdit')))
  for name, tensor in tensors.items():
    wrong = np.ones(tensor.shape).astype(dtype)
    with refused(f'tensor {name!r} has dtype {wrong.dtype}, expected floats'):
      read({**tensors, name: wrong}, 'ig_lightningdit')


def test_wrong_table_does_not_fill_the_memory(monkeypatch):
  tensors = dict(random_tensors(make_config('sit')))
  tensors['pos_embed'] = np.ones((1, 10**4, 1), np.float32)
  tensors['x_embedder.proj.weight'] = np.ones((10**4, 3, 2, 2), np.float32)
  monkeypatch.setattr(model, 'position_table', None)  # A call would fail.
  with refused('pos_embed'):
    read(tensors, 'sit')


@pytest.mark.parametrize(('num_heads', 'changes', 'message'), [
  (3, {}, 'width 8 is not divisible by model.num_heads 3'),
  (0, {}, 'model.num_heads is 0'),
  (-2, {}, 'model.num_heads is -2'),
  (4, {}, 'model.num_heads is 2, which rotary positions'),
  (1, {}, "'feat_rope.freqs_cos' has shape (4, 4), expected (4, 8)"),
  (1, {'rope': False}, "'blocks.0.attn.q_norm.weight' has shape (4,)"),
])  # fmt: skip
def test_wrong_number_of_heads(num_heads, changes, message):
  tensors = random_tensors(make_config('lightningdit', **changes))
  with refused(message):
    read(tensors, 'lightningdit', num_heads=num_heads)


def test_unknown_family():
  config = make_config('sit')
  for family, near in (('ig_sti', 'ig_sit'), ('LightningDiT', 'lightningdit')):
    words = f'family is {family!r}', f"Did you mean '{near}'", 'dit, sit, ig_'
    with refused(*words):
      convert.from_published(random_tensors(config), family=family, num_heads=2)
    with refused(*words):
      write(config, random_params(config), family)


@pytest.mark.parametrize(('family', 'taps', 'message'), [
  ('ig_sit', (), 'one intermediate head (final_layer_xr), but taps is ()'),
  ('ig_lightningdit', (1, 2), 'one intermediate head'),
  ('dit', (1,), 'no intermediate head, but taps is (1,)'),
  ('lightningdit', (1, 2), 'no intermediate head'),
  ('ig_sit', (0,), 'taps has 0, expected an integer from 1'),
  ('ig_sit', (3,), 'between 1 and depth - 1 = 2'),
])  # fmt: skip
def test_wrong_taps(family, taps, message):
  with refused(message):
    read(random_tensors(make_config(family)), family, taps=taps)


@pytest.mark.parametrize(('convention', 'own'), [
  ('velocity', 'ig_sit, repa.'), ('noise', 'dit.'),
  ('reversed', 'sit, lightningdit, ig_lightningdit.'),
])  # fmt: skip
def test_family_of_another_convention(convention, own):
  for family in {*convert.FAMILIES} - {*own[:-1].split(', ')}:
    config = make_config(family, convention=convention)
    with refused(f'of convention {convention!r}', family, f'one of {own}'):
      write(config, random_params(config), family)


@pytest.mark.parametrize('family', PLAIN)
@pytest.mark.parametrize(('field', 'value'), [
  ('norm', 'rmsnorm'), ('mlp', 'swiglu'), ('rope', True), ('shift', False),
])  # fmt: skip
def test_family_that_cannot_hold_the_network(family, field, value):
  config = make_config(family, **{field: value})
  words = f'family {family} has {field} = ', f'the network has {value!r}'
  with refused(*words):
    write(config, random_params(config), family)
  with refused(*words):
    read(random_tensors(config), family)


@pytest.mark.parametrize('family', ['ig_lightningdit', 'sit'])
def test_wrong_parameters(family):
  config = make_config(family)
  flat = random_params(config)
  for path, leaf in flat.items():
    with refused(f'parameter {path!r} is missing'):
      write(config, {k: v for k, v in flat.items() if k != path}, family)
    for wrong in (leaf[None], leaf[..., :-1], leaf.ravel()[0]):
      with refused(f'parameter {path!r} has shape {wrong.shape}, expected'):
        write(config, {**flat, path: wrong}, family)
    for dtype in (np.int32, object, np.complex64):
      wrong = np.ones(leaf.shape).astype(dtype)
      with refused(f'parameter {path!r} has dtype {wrong.dtype}'):
        write(config, {**flat, path: wrong}, family)
  for path in ('blocks/mlp/fc3/kernel', 'blocks/gate'):
    with refused(f'parameter {path!r} has no place in the configuration'):
      write(config, {**flat, path: flat['label_embed']}, family)
