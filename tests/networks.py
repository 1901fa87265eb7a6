"""Small networks."""

import functools
from typing import ClassVar

import jax

from dit import latents, model


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


class Doubled:
  """An autoencoder of which every number is known: mean 2x, std 0.5."""

  downsampling, latent_channels = 1, 3
  params: ClassVar = {}
  normalisation = latents.Normalisation((1.0,), (2.0,))

  def encode(self, x):
    return latents.Posterior(2 * x, 0 * x + 0.5)


jax.tree_util.register_static(Doubled)
