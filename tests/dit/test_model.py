"""Tests the network's initialization, taps, block masks and precisions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import networks
import pytest

from dit import model

apply = jax.jit(lambda denoiser, *args: denoiser(*args))


@jax.jit
def apply_kept(denoiser, batch, keep):
  return denoiser(*batch, keep=keep)


@functools.partial(jax.jit, static_argnames='config')
def _gradient(params, batch, weights, *, config):
  def loss(params):
    out = model.bind(config, params)(*batch)
    predictions = (out.velocity, *out.intermediate)
    errors = [jnp.square(p - k).mean() for k, p in enumerate(predictions, 1)]
    return weights @ jnp.stack(errors)

  return jax.grad(loss)(params)


def gradient(*args, config):
  return jax.device_get(_gradient(*args, config=config))


ALL = jnp.asarray([1.0, 0.7, 0.4])


@pytest.fixture(scope='module')
def config(config):
  """Configuration of a network with only three blocks, to compile quickly."""
  return dataclasses.replace(config, depth=3, taps=(1, 2))


@pytest.fixture(scope='module')
def denoiser(config):
  return networks.perturbed(config)


def close(ours, expected, atol=1e-5):
  networks.assert_close(ours, expected, rtol=1e-4, atol=atol)


def rebind(denoiser, **changes):
  config = dataclasses.replace(denoiser.config, **changes)
  return model.bind(config, denoiser.params)


def test_fresh_network_is_exactly_zero(config, batch):
  params = jax.jit(functools.partial(model.init, config))(jax.random.key(3))
  out = apply(model.bind(config, params), *batch)
  assert len(out.intermediate) == 2
  for prediction in (out.velocity, *out.intermediate):
    assert prediction.shape == batch[0].shape
    assert not prediction.any()


def test_predictions_depend_on_every_input(denoiser, batch):
  x, t, label = batch
  out = apply(denoiser, x, t, label).velocity
  for other in ((x + 1, t, label), (x, t / 2, label), (x, t, label[::-1])):
    difference = jnp.abs(apply(denoiser, *other).velocity - out)
    assert difference[0].max() > 1e-3


def test_loop_equals_scan(denoiser, batch):
  close(apply(rebind(denoiser, scan=False), *batch), apply(denoiser, *batch))


@pytest.mark.slow
@pytest.mark.parametrize('changes', [
  {'remat': 'full'},
  {'scan': False},
  {'remat': 'dots'},
])  # fmt: skip
def test_gradient_is_that_of_the_plain_scan(denoiser, batch, changes):
  plain = dataclasses.replace(denoiser.config, remat='none')
  expected = gradient(denoiser.params, batch, ALL, config=plain)
  config = dataclasses.replace(plain, **changes)
  close(gradient(denoiser.params, batch, ALL, config=config), expected)


@pytest.mark.parametrize('index', [0, 1])
def test_tap_is_the_velocity_of_a_shallower_network(denoiser, batch, index):
  tap, params = denoiser.config.taps[index], dict(denoiser.params)
  heads = params.pop('tap_heads')
  params['head'] = jax.tree.map(lambda leaf: leaf[index], heads)
  params['blocks'] = jax.tree.map(lambda leaf: leaf[:tap], params['blocks'])
  config = dataclasses.replace(denoiser.config, depth=tap, taps=(), scan=False)
  shallow = apply(model.bind(config, params), *batch)
  close(apply(denoiser, *batch).intermediate[index], shallow.velocity)


def test_keeping_all_blocks_changes_nothing(denoiser, batch):
  ours = apply_kept(denoiser, batch, jnp.ones(3, bool))
  close(ours, apply(denoiser, *batch), atol=1e-6)


def test_keeping_no_block_is_the_identity(denoiser, batch):
  blocks = denoiser.params['blocks']
  closed = jax.tree.map(jnp.zeros_like, blocks['modulation'])  # gates of 0
  params = {**denoiser.params, 'blocks': {**blocks, 'modulation': closed}}
  identity = model.bind(denoiser.config, params)
  out = apply_kept(denoiser, batch, jnp.zeros(3, bool))
  close(out, apply(identity, *batch), atol=1e-6)
  # With nonzero gates, the blocks change the output.
  assert jnp.abs(out.velocity - apply(denoiser, *batch).velocity).max() > 0.1


@pytest.mark.parametrize('index', [0, 1])
def test_intermediate_loss_reaches_its_tap_and_below(denoiser, batch, index):
  weights = jnp.zeros(3).at[1 + index].set(1)
  grads = gradient(denoiser.params, batch, weights, config=denoiser.config)
  tap = denoiser.config.taps[index]
  for leaf in jax.tree.leaves(grads['blocks']):
    assert not leaf[tap:].any()
    assert all(block.any() for block in leaf[:tap])
  for leaf in jax.tree.leaves(grads['tap_heads']):
    assert leaf[index].any() and not leaf[1 - index].any()
  assert not any(leaf.any() for leaf in jax.tree.leaves(grads['head']))
  for name in ('patch_embed', 'time_embed', 'label_embed'):
    assert all(leaf.any() for leaf in jax.tree.leaves(grads[name]))


def test_positions_get_no_gradient(denoiser, batch):
  grads = gradient(denoiser.params, batch, ALL, config=denoiser.config)
  for name in ('position', 'rotary') if denoiser.config.rope else ('position',):
    assert not grads.pop(name).any()
  for leaf in jax.tree.leaves(grads):
    assert leaf.any()


@pytest.mark.parametrize('shape', [(6, 8, 8, 4), (6, 4, 4, 3), (6, 8, 4, 3)])
def test_wrong_shape_raises(denoiser, batch, shape):
  with pytest.raises(ValueError, match=r'square latents .* \(B, 8, 8, 3\)'):
    denoiser(jnp.zeros(shape), *batch[1:])


def test_bfloat16_activations_stay_close(denoiser, batch):
  expected = apply(denoiser, *batch)
  out = apply(rebind(denoiser, dtype='bfloat16'), *batch)
  for ours, theirs in zip(
    jax.tree.leaves(out), jax.tree.leaves(expected), strict=True
  ):
    assert ours.dtype == jnp.float32
    error = jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs)
    assert 1e-5 < error < 0.03  # bfloat16 rounding is visible.


def test_bfloat16_parameters(config, batch):
  config = dataclasses.replace(config, param_dtype='bfloat16')
  params = model.shapes(config)
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
  out = jax.eval_shape(apply, model.bind(config, params), *batch)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(out))


def test_what_is_recomputed(config):
  """Remat mode `dots` recomputes attention matmuls; `full` recomputes more."""
  params = model.shapes(config)

  def products(remat):
    changed = dataclasses.replace(config, remat=remat)
    x = jax.ShapeDtypeStruct((2, *config.latent_shape), 'float32')
    row = jax.ShapeDtypeStruct((2,), 'float32')

    def loss(params, x, t):
      label = jax.numpy.zeros(2, int)
      return model.bind(changed, params)(x, t, label).velocity.sum()

    lowered = jax.jit(jax.grad(loss)).lower(params, x, row)
    return lowered.as_text().count('dot_general')

  assert products('none') < products('dots') < products('full')
