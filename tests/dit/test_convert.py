"""Published tensors: there and back bit for bit, counts, every refusal."""

import contextlib
import dataclasses
import functools
import itertools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit import convert, model
from dit.config import DiTConfig, named_size
from dit.types import InputError

SIZES = {'size': 4, 'channels': 3, 'num_classes': 5, 'patch': 2, 'depth': 3,
         'width': 8, 'num_heads': 2}  # fmt: skip
TAPS = {family: (1,) if 'ig_' in family else () for family in convert.FAMILIES}
PLAIN = ('dit', 'sit', 'ig_sit')
# All that a published network of the LightningDiT code can have.
RICH = {'norm': 'rmsnorm', 'mlp': 'swiglu', 'rope': True, 'qk_norm': 'rmsnorm'}


@pytest.fixture(scope='module', autouse=True)
def remembered_shapes():
  """Tracing a network takes longer than converting it: once for each."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(model, 'shapes', functools.cache(model.shapes))
    yield


def make_config(family, **changes):
  options = {} if family in PLAIN else RICH
  convention = convert.FAMILIES[family].convention
  return DiTConfig(**{**SIZES, **options, 'taps': TAPS[family],
                      'convention': convention, **changes})  # fmt: skip


def frozen(arrays):
  """Read-only, so that a conversion that writes into them raises."""
  for array in arrays.values():
    array.flags.writeable = False
  return types.MappingProxyType(arrays)


def random_bits(shape, rng):
  """Any float32: NaN with its payload, infinite, subnormal, -0."""
  bits = rng.integers(0, 2**32, shape, np.uint32, endpoint=False)
  return bits.view(np.float32)


def random_tensors(config):
  rng = np.random.default_rng(0)
  shapes = convert.published_shapes(config)
  return frozen({name: random_bits(s, rng) for name, s in shapes.items()})


def random_params(config):
  rng = np.random.default_rng(1)
  shapes = convert.flatten(model.shapes(config))
  return {path: random_bits(leaf.shape, rng) for path, leaf in shapes.items()}


def read(tensors, family, **changes):
  arguments = {'num_heads': 2, 'taps': TAPS[family], **changes}
  return convert.from_published(tensors, family=family, **arguments)


def write(config, flat, family):
  return convert.to_published(config, convert.unflatten(flat), family=family)


def same_bits(ours, expected):
  assert ours.keys() == expected.keys()
  for name, array in ours.items():
    assert array.dtype == expected[name].dtype == np.float32
    np.testing.assert_array_equal(
      array.view(np.uint32), expected[name].view(np.uint32), name, strict=True
    )


@contextlib.contextmanager
def refused(*words):
  """Expects an InputError of one line that holds these words."""
  with pytest.raises(InputError) as caught:
    yield
  assert '\n' not in str(caught.value)
  for word in words:
    assert word in str(caught.value)


def architectures():
  """Every family with everything that its code can be asked for."""
  qk_norm, flag = ('none', 'layernorm', 'rmsnorm'), (False, True)
  some = {'qk_norm': qk_norm, 'learn_sigma': flag}
  every = {'norm': ('layernorm', 'rmsnorm'), 'mlp': ('gelu', 'swiglu'),
           'rope': flag, 'shift': flag, **some}  # fmt: skip
  for family in convert.FAMILIES:
    choices = some if family in PLAIN else every
    for values in itertools.product(*choices.values()):
      changes = dict(zip(choices, values, strict=True))
      yield pytest.param(
        family, changes, id='-'.join([family, *map(str, values)])
      )


@pytest.mark.parametrize(('family', 'changes'), [*architectures()])
def test_round_trip_is_bitwise_and_infers_the_network(family, changes):
  config = make_config(family, **changes)
  tensors = random_tensors(config)
  inferred, params = read(tensors, family)
  assert inferred == config
  flat = convert.flatten(params)
  shapes = convert.flatten(model.shapes(config))
  assert jax.tree.map(np.shape, flat) == jax.tree.map(np.shape, shapes)
  same_bits(write(config, flat, family), tensors)


@pytest.mark.parametrize('family', convert.FAMILIES)
def test_other_way_round_is_bitwise_too(family):
  config = make_config(family)
  flat = frozen(random_params(config))
  tensors = write(config, flat, family)
  same_bits(convert.flatten(read(tensors, family)[1]), flat)


@pytest.mark.parametrize('mlp', ['gelu', 'swiglu'])
@pytest.mark.parametrize('ratio', [0.5, 1.1, 2.67, 3.3, 4.0, 4.1])
def test_hidden_width_of_any_ratio_comes_back(mlp, ratio):
  for width in (8, 20):
    config = make_config('sit', mlp=mlp, mlp_ratio=ratio, width=width,
                         convention='reversed')  # fmt: skip
    inferred, _ = read(random_tensors(config), 'lightningdit')
    assert inferred.hidden == config.hidden
    assert dataclasses.replace(inferred, mlp_ratio=ratio) == config
    assert ratio != 4 or inferred.mlp_ratio == 4


@pytest.mark.parametrize(
  ('mlp', 'names'), [('gelu', ('fc1', 'fc2')), ('swiglu', ('w12', 'w3'))]
)
def test_every_hidden_width_comes_back(mlp, names):
  """Of tensors that know no ratio."""
  tensors = dict(random_tensors(make_config('lightningdit', mlp=mlp)))
  for hidden in range(1, 30):
    first = 2 * hidden if mlp == 'swiglu' else hidden
    for i in range(3):
      fc1, fc2 = (f'blocks.{i}.mlp.{name}' for name in names)
      tensors[f'{fc1}.weight'] = np.ones((first, 8), np.float32)
      tensors[f'{fc1}.bias'] = np.ones(first, np.float32)
      tensors[f'{fc2}.weight'] = np.ones((8, hidden), np.float32)
    assert read(tensors, 'lightningdit')[0].hidden == hidden


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
  # And the way back, of jax arrays in that precision.
  if dtype in ('float16', 'bfloat16'):
    narrow = {path: jnp.asarray(leaf, dtype) for path, leaf in flat.items()}
    same_bits(write(config, narrow, 'ig_lightningdit'), expected)


def test_reading_shares_no_memory():
  tensors = random_tensors(make_config('ig_lightningdit'))
  flat = convert.flatten(read(tensors, 'ig_lightningdit')[1])
  for ours, theirs in itertools.product(flat.values(), tensors.values()):
    assert not np.shares_memory(ours, theirs)
  assert all(leaf.flags.writeable for leaf in flat.values())


@pytest.mark.xfail(strict=True, reason='float32 biases and gains are views')
def test_writing_shares_no_memory():
  config = make_config('ig_lightningdit')
  flat = random_params(config)
  tensors = write(config, flat, 'ig_lightningdit')
  for ours, theirs in itertools.product(flat.values(), tensors.values()):
    assert not np.shares_memory(ours, theirs)


def published_xl(kind, heads):
  """Names and shapes of the XL networks, as their authors' files list them."""
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


ROTARY, POSITION = 2 * 256 * 72, 256 * 1152


@pytest.mark.parametrize(
  ('name', 'taps', 'tensors', 'values'),
  [
    ('SiT-XL/2', (8,), 296, 677_786_144),
    ('LightningDiT-XL/1', (8,), 356, 677_951_296 + ROTARY),
    ('LightningDiT-XL/1', (), 351, 675_256_736 + ROTARY),
    # 675,129,632, which counts the positions; learned: 28 (18 D^2 + 15 D) of
    # the blocks, (D + 257) D + D of the time, 1001 D of the labels, 17 D of
    # the patches, 2 D^2 + 2 D and 32 D + 32 of the head; D = 1152.
    ('DiT-XL/2', (), 287, 674_834_720 + POSITION),
  ],
)
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
  config = DiTConfig(size=2, channels=4, num_classes=2**40, patch=2, depth=90,
                     width=2**15, num_heads=16)  # fmt: skip
  shapes = convert.published_shapes(config)
  assert sum(map(math.prod, shapes.values())) > 2**55


@pytest.mark.parametrize('family', ['ig_lightningdit', 'sit'])
def test_missing_tensor(family):
  tensors = random_tensors(make_config(family))
  # Whether these are there says what network it is; others are amiss then.
  telling = {'feat_rope.freqs_cos': 'feat_rope.freqs_sin',
             'blocks.0.norm1.weight': 'norm',
             'blocks.0.attn.q_norm.weight': 'blocks.0.attn.k_norm.weight',
             'blocks.0.mlp.w12.weight': 'blocks.0.mlp.'}  # fmt: skip
  for name in tensors:
    less = {key: tensor for key, tensor in tensors.items() if key != name}
    with refused('published tensor', telling.get(name, f'{name!r} is missing')):
      read(less, family)


@pytest.mark.parametrize(
  ('family', 'name'),
  [
    ('sit', 'final_layer_xr.linear.weight'),
    ('sit', 'blocks.1.norm1.weight'),
    ('sit', 'feat_rope.freqs_sin'),
    ('sit', 'blocks.1.attn.q_norm.weight'),
    ('ig_lightningdit', 'module.pos_embed'),
    ('ig_lightningdit', 'blocks.1.attn.q_norm.bias'),
    ('ig_lightningdit', 'blocks.1.mlp.fc1.weight'),
    ('ig_lightningdit', 'blocks.1'),
    ('ig_lightningdit', ''),
  ],
)
def test_tensor_without_a_place(family, name):
  tensors = dict(random_tensors(make_config(family)))
  tensors[name] = np.ones(8, np.float32)
  with refused(f'published tensor {name!r} has no place', f'family {family}'):
    read(tensors, family)


def test_block_without_its_tensors():
  tensors = dict(random_tensors(make_config('sit')))
  whole = {key: t for key, t in tensors.items() if 'blocks.1.' not in key}
  with refused("'blocks.1.attn.qkv.weight' is missing"):
    read(whole, 'sit')
  tensors['blocks.7.attn.qkv.weight'] = tensors['blocks.1.attn.qkv.weight']
  with refused("'blocks.3.attn.qkv.weight' is missing"):
    read(tensors, 'sit')


@pytest.mark.parametrize('family', ['ig_lightningdit', 'sit'])
def test_misshapen_tensor(family):
  tensors = dict(random_tensors(make_config(family)))
  for name, tensor in tensors.items():
    for wrong in (tensor[None], tensor[..., None], tensor.ravel()[0]):
      with refused(f'tensor {name!r} has shape {wrong.shape}, expected'):
        read({**tensors, name: wrong}, family)
    with refused(f'tensor {name!r} has shape'):
      read({**tensors, name: tensor[..., :0]}, family)


@pytest.mark.parametrize(
  ('name', 'shape', 'named'),
  [
    ('blocks.1.attn.qkv.weight', (8, 24), 'blocks.1.attn.qkv.weight'),
    ('blocks.1.mlp.fc1.weight', (8, 32), 'blocks.1.mlp.fc1.weight'),
    ('blocks.1.adaLN_modulation.1.bias', (32,), 'blocks.1.adaLN_modulation.1'),
    ('blocks.0.adaLN_modulation.1.weight', (40, 8), 'blocks.0.adaLN'),
    ('final_layer.linear.weight', (36, 8), 'final_layer.linear.weight'),
    ('final_layer.linear.weight', (12, 8), 'final_layer.linear.bias'),
    ('y_embedder.embedding_table.weight', (6, 9), 'y_embedder'),
    ('x_embedder.proj.weight', (8, 3, 2, 3), 'x_embedder.proj.weight'),
    ('x_embedder.proj.weight', (8, 3, 3, 3), 'final_layer.linear.weight'),
    ('pos_embed', (2, 4, 8), 'pos_embed'),
    ('pos_embed', (1, 4, 9), 'pos_embed'),
    ('pos_embed', (1, 5, 8), 'pos_embed has 5 tokens, no square number'),
    ('pos_embed', (1, 2, 8), 'pos_embed has 2 tokens, no square number'),
  ],
)
def test_shapes_that_contradict_each_other(name, shape, named):
  tensors = dict(random_tensors(make_config('sit', learn_sigma=True)))
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


@pytest.mark.xfail(strict=True, reason='tables are made before shapes are seen')
def test_wrong_table_does_not_fill_the_memory(monkeypatch):
  def never(*args):
    raise AssertionError('makes a table of tokens by width')

  tensors = dict(random_tensors(make_config('sit')))
  tensors['pos_embed'] = np.ones((1, 10**4, 1), np.float32)
  tensors['x_embedder.proj.weight'] = np.ones((10**4, 3, 2, 2), np.float32)
  monkeypatch.setattr(model, 'position_table', never)
  with refused('pos_embed'):
    read(tensors, 'sit')


@pytest.mark.parametrize(
  ('num_heads', 'changes', 'message'),
  [
    (3, {}, 'width 8 is not divisible by model.num_heads 3'),
    (16, {}, 'width 8 is not divisible by model.num_heads 16'),
    (0, {}, 'model.num_heads is 0'),
    (-2, {}, 'model.num_heads is -2'),
    (4, {}, 'model.num_heads is 2, which rotary positions'),
    (1, {}, "'feat_rope.freqs_cos' has shape (4, 4), expected (4, 8)"),
    (1, {'rope': False}, "'blocks.0.attn.q_norm.weight' has shape (4,)"),
    (4, {'rope': False}, "'blocks.0.attn.q_norm.weight' has shape (4,)"),
  ],
)
def test_wrong_number_of_heads(num_heads, changes, message):
  tensors = random_tensors(make_config('lightningdit', **changes))
  with refused(message):
    read(tensors, 'lightningdit', num_heads=num_heads)


@pytest.mark.parametrize(
  ('family', 'nearest'),
  [('ig_sti', 'ig_sit'), ('DiT', 'dit'), ('LightningDiT', 'lightningdit')],
)
def test_unknown_family(family, nearest):
  words = f'family is {family!r}', f"Did you mean '{nearest}'", 'dit, sit, ig_'
  config = make_config('sit')
  with refused(*words):
    read(random_tensors(config), family, taps=())
  with refused(*words):
    write(config, random_params(config), family)


@pytest.mark.parametrize(
  ('family', 'taps', 'message'),
  [
    ('ig_sit', (), 'one head inside (final_layer_xr), but taps is ()'),
    ('ig_lightningdit', (1, 2), 'one head inside'),
    ('dit', (1,), 'no head inside, but taps is (1,)'),
    ('lightningdit', (1, 2), 'no head inside'),
    ('ig_sit', (0,), 'between 1 and depth - 1 = 2'),
    ('ig_sit', (3,), 'between 1 and depth - 1 = 2'),
    ('ig_sit', (-1,), 'between 1 and depth - 1 = 2'),
    ('sit', (3,), 'between 1 and depth - 1 = 2'),
    ('ig_sit', (2, 1), 'rising order'),
  ],
)
def test_wrong_taps(family, taps, message):
  with refused(message):
    read(random_tensors(make_config(family)), family, taps=taps)
  if 'inside' in message:
    config = make_config(family, taps=taps)
    with refused(message):
      write(config, random_params(config), family)


@pytest.mark.parametrize('family', convert.FAMILIES)
@pytest.mark.parametrize('convention', ['velocity', 'reversed', 'noise'])
def test_family_of_another_convention(family, convention):
  config, own = make_config(family), convert.FAMILIES[family].convention
  if own == convention:
    return
  config = dataclasses.replace(config, convention=convention)
  others = {'velocity': 'ig_sit.', 'noise': 'dit.',
            'reversed': 'sit, lightningdit, ig_lightningdit.'}  # fmt: skip
  words = repr(convention), family, repr(own), f'own are {others[convention]}'
  with refused(*words):
    write(config, random_params(config), family)


@pytest.mark.parametrize('family', PLAIN)
@pytest.mark.parametrize(
  ('field', 'value'),
  [('norm', 'rmsnorm'), ('mlp', 'swiglu'), ('rope', True), ('shift', False)],
)
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
  for path in (
    'blocks/mlp/fc3/kernel',
    'rotary/extra',
    'blocks/attention/gate',
  ):
    with refused(f'parameter {path!r} has no place in the configuration'):
      write(config, {**flat, path: flat['label_embed']} | {}, family)
