"""Small networks."""

import functools

import jax

from dit import model


def perturbed(config):
  """A network of which no weight is zero."""
  params = jax.jit(functools.partial(model.init, config))(jax.random.key(0))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [
    leaf + 0.1 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  return model.bind(config, jax.tree.unflatten(tree, leaves))
